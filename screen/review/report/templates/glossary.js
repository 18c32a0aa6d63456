// Shows the meaning of a score beside its name: on hover, on focus and on a tap. Escape hides it.
(() => {
  const tip = document.getElementById("tip");
  let shown = null;
  let leaving = 0;

  function show(term) {
    const meaning = document.querySelector(`[id="${term.hash.slice(1)}"] + dd .plain`);
    if (!meaning) return;
    clearTimeout(leaving);
    hide();
    shown = term;
    tip.textContent = meaning.textContent;
    tip.hidden = false;
    term.setAttribute("aria-describedby", "tip");
    const place = term.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - size.width - 8);
    const above = place.bottom + size.height + 8 > window.innerHeight && place.top > size.height + 8;
    tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
    tip.style.top = `${(above ? place.top - size.height - 4 : place.bottom + 4) + window.scrollY}px`;
  }

  function hide() {
    if (shown) shown.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }

  const leave = () => {
    clearTimeout(leaving);
    leaving = setTimeout(hide, 250);
  };
  const term = (event) => (event.target.closest ? event.target.closest("a.term") : null);
  document.addEventListener("mouseover", (event) => {
    if (term(event)) show(term(event));
    else if (event.target === tip) clearTimeout(leaving);
    else if (shown && shown !== document.activeElement) leave();
  });
  document.addEventListener("focusin", (event) => (term(event) ? show(term(event)) : hide()));
  document.addEventListener("click", (event) => {
    if (term(event)) {
      event.preventDefault();
      show(term(event));
    } else if (event.target !== tip) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
})();
