// Files that are dropped anywhere on a page.

/** Call `take(file)` with the first file of each drop; `zone` has the class `over` while one is dragged over the page. */
export function takeDrops(zone, take) {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  addEventListener("dragleave", () => zone.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}
