// A click on a thumbnail, or Enter, shows the thumbnail as large as the window allows. Escape closes the dialog.
(() => {
  const viewer = document.getElementById("viewer");
  const close = viewer.querySelector("button");
  for (const image of document.querySelectorAll("#gallery img")) {
    const row = image.closest("[data-source]");
    const name = row.querySelector("h3 bdi, :scope > bdi").textContent;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.setAttribute("aria-label", `Enlarge the image of ${name}`);
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => {
      const large = image.cloneNode();
      large.removeAttribute("width");
      large.removeAttribute("height");
      large.alt = `Image of ${name}`;
      document.getElementById("viewer-title").textContent = name;
      document.getElementById("viewer-image").replaceChildren(large);
      const where = row.querySelector("article > .where:last-of-type, :scope > .where");
      document.getElementById("viewer-where").textContent = where.textContent;
      viewer.showModal();
    });
  }
  close.addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
})();
