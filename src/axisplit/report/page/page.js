"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const details = JSON.parse(document.getElementById("details").textContent);
  const buttons = all("button.axis");
  let pinned = "", pointed = "";

  // --- axes: one lights up everywhere it appears ---
  const light = () => {
    const key = pointed || pinned;
    root.classList.toggle("lighting", key !== "");
    for (const element of all("[data-axis]")) element.classList.toggle("lit", key !== "" && element.dataset.axis === key);
    for (const button of buttons) button.setAttribute("aria-pressed", String(pinned !== "" && button.dataset.axis === pinned));
  };
  const point = (key) => { pointed = key; light(); };
  const pin = (key) => { pinned = pinned === key ? "" : key; pointed = ""; light(); };
  const sources = [...buttons, ...all(".edge[data-axis], .legend li")];
  for (const source of sources) {
    source.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(source.dataset.axis));
    source.addEventListener("pointerleave", () => point(""));
    source.addEventListener("click", () => pin(source.dataset.axis));
  }
  for (const button of buttons) {
    button.addEventListener("focus", () => button.matches(":focus-visible") && point(button.dataset.axis));
    button.addEventListener("blur", () => point(""));
  }

  // --- details of a parameter ---
  const panel = document.getElementById("detail");
  const make = (tag, text, parent, kind) => {
    const element = document.createElement(tag);
    if (text !== null) element.textContent = text;
    if (kind) element.className = kind;
    return parent.appendChild(element);
  };
  const colours = all(".memory rect").map((bar) => bar.getAttribute("fill"));
  const tell = (source) => {
    const found = details[Number(source.dataset.n)];
    panel.replaceChildren();
    make("b", found.name, panel);
    make("p", `${found.shape}, ${found.dtype}, ${found.bytes}`, panel);
    if (found.tied) make("p", `the same as ${found.tied}`, panel);
    if (found.held) make("p", found.held, panel);
    if (found.ranks.length) {
      const table = make("table", null, panel);
      found.ranks.forEach(([ranges, bytes], rank) => {
        const row = make("tr", null, table);
        const first = make("td", null, row);
        make("span", "", first, "swatch").style.background = colours[rank];
        first.append(`rank ${rank}`);
        make("td", ranges, row);
        make("td", bytes, row);
      });
    }
    panel.hidden = false;
    const box = source.getBoundingClientRect(), own = panel.getBoundingClientRect();
    const below = box.bottom + own.height + 8 < innerHeight;
    const top = below ? box.bottom + 6 : Math.max(box.top - own.height - 6, 4);
    panel.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 12)) + scrollX}px`;
    panel.style.top = `${top + scrollY}px`;
  };
  const hush = () => { panel.hidden = true; };
  for (const source of all("[data-n]")) {
    source.addEventListener("pointerenter", () => tell(source));
    source.addEventListener("pointerleave", hush);
    source.addEventListener("focus", () => tell(source));
    source.addEventListener("blur", hush);
  }

  // --- search ---
  const search = document.getElementById("search"), count = document.getElementById("found");
  const entries = all("[data-search]").map((element) => [element, element.dataset.search.toLowerCase()]);
  const groups = all("[data-group]").reverse(); // inner ones first
  const sift = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [element, text] of entries) {
      const hit = words.every((word) => text.includes(word));
      element.hidden = !hit;
      if (hit && element.dataset.n !== undefined) shown += 1;
    }
    for (const group of groups) {
      group.hidden = words.length > 0 && !all("[data-search]", group).some((element) => !element.hidden);
    }
    for (const list of all(".pills")) list.hidden = words.length > 0 && all(".pill:not([hidden])", list).length === 0;
    count.textContent = words.length ? `${shown} found` : "";
    document.getElementById("nothing").hidden = !words.length || all("#model [data-search]:not([hidden])").length > 0;
  };
  search.addEventListener("input", sift);

  // --- keys and theme ---
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      if (document.activeElement === search && search.value) { search.value = ""; sift(); } else { pinned = ""; pointed = ""; light(); hush(); }
    } else if (event.key === "/" && document.activeElement !== search) {
      event.preventDefault();
      search.focus();
    }
  });
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
