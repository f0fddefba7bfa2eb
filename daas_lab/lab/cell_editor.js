// Shows the drawing of both cells and tells which edge was clicked: `selected` is [cell, number of its edge].
function render({ model, el }) {
  el.classList.add("daas-cells");
  const edges = (cell) => [...el.querySelectorAll(`g.edge[data-cell="${cell}"]`)];

  function mark() {
    const [cell, number] = model.get("selected");
    el.querySelectorAll("g.edge.selected").forEach((edge) => edge.classList.remove("selected"));
    if (cell) edges(cell)[number]?.classList.add("selected");
  }

  function draw() {
    el.innerHTML = model.get("svg");
    for (const edge of el.querySelectorAll("g.edge")) {
      const { source, node, operation } = edge.dataset;
      edge.setAttribute("tabindex", "0");
      edge.setAttribute("role", "button");
      edge.setAttribute("aria-label", `${operation} from ${source} to ${node}`);
    }
    mark();
  }

  function select(event) {
    const edge = event.target.closest("g.edge");
    if (!edge || (event.type === "keydown" && event.key !== "Enter")) return;
    model.set("selected", [edge.dataset.cell, edges(edge.dataset.cell).indexOf(edge)]);
    model.save_changes();
  }

  el.addEventListener("click", select);
  el.addEventListener("keydown", select);
  model.on("change:svg", draw);
  model.on("change:selected", mark);
  draw();
}

export default { render };
