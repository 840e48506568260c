const box = document.getElementById("matrix"), input = box.querySelector("input");
const [zeros, ones, counts] = JSON.parse(box.dataset.counts);
const show = (name, text) => { document.getElementById(name).textContent = text; };
const percent = (share, unit) => (100 * share).toFixed(1) + unit;
const proportion = (name, part, rows) => {  // with its Wilson interval
  const z = 1.959964, scale = 1 + z * z / rows, share = part / rows, middle = (share + z * z / (2 * rows)) / scale;
  const half = z / scale * Math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows));
  show(name, rows ? percent(share, "%") : "n/a");
  show(name + "-ends", rows ? ` (${percent(middle - half, "")} to ${percent(middle + half, "")})` : "");
};
document.getElementById("try").hidden = false;
input.addEventListener("input", () => {
  const [falsely, hits] = counts[input.value];
  const cells = { tn: zeros - falsely, fp: falsely, fn: ones - hits, tp: hits };
  for (const name in cells) show(name, cells[name].toLocaleString("en-US"));
  show("at", (input.value / 100).toFixed(2));
  show("why", "accuracy " + percent((zeros - falsely + hits) / (zeros + ones), "%"));
  proportion("precision", hits, hits + falsely);
  proportion("recall", hits, ones);
  document.querySelector(".cut").setAttribute("transform", `translate(${2.96 * input.value - 296 * box.dataset.start})`);
});
