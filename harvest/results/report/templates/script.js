const box = document.getElementById("matrix"), input = box.querySelector("input");
const [zeros, ones, counts] = JSON.parse(box.dataset.counts);
const show = (name, text) => { document.getElementById(name).textContent = text; };
document.getElementById("try").hidden = false;
input.addEventListener("input", () => {
  const [falsely, hits] = counts[input.value];
  const cells = { tn: zeros - falsely, fp: falsely, fn: ones - hits, tp: hits };
  for (const name in cells) show(name, cells[name].toLocaleString("en-US"));
  show("at", (input.value / 100).toFixed(2));
  show("why", "accuracy " + (100 * (zeros - falsely + hits) / (zeros + ones)).toFixed(1) + " %");
});
