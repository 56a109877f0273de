// Light and dark, sorting and filtering, all answers, and print. No network.
(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const name = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Use the light page" : "Use the dark page");
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  system.addEventListener("change", name);
  name();

  // Tables are sorted by a click on a head, and filtered by words.
  const order = (cell) => {
    const text = cell.textContent.trim().replace("<", "");
    const found = text.match(/^[-+~]?\d[\d,]*\.?\d*(e[-+]?\d+)?/);
    return found ? Number(found[0].replace(/[,~]/g, "")) : text;
  };
  const compare = (a, b) =>
    typeof a === typeof b ? (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true })) : typeof a === "number" ? -1 : 1;
  for (const table of all("main table")) {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 4 || table.classList.contains("answers")) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const sort = make("button", { type: "button" }, ...head.childNodes);
      head.append(sort);
      sort.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [order(row.cells[place]), row]);
        rows.sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]));
        body.append(...rows.map(([, row]) => row));
      });
    });
    if (body.rows.length < 9) continue;
    const field = make("input", { type: "search", autocomplete: "off", placeholder: "words of a row" });
    const count = make("output");
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      count.textContent = words.length ? `${shown} of ${body.rows.length} rows` : "";
    });
    table.closest(".table").prepend(make("div", { class: "filter" }, make("label", {}, "Filter ", field), count));
  }

  // All answers, unpacked when they are asked for.
  const unpack = async (block) => {
    const bytes = Uint8Array.from(atob(block.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  for (const place of all(".browser")) {
    if (!("DecompressionStream" in window)) continue;
    const { tasks, outcomes, original } = JSON.parse(place.querySelector(".index").textContent);
    const blocks = all(".block", place);
    const cache = new Map();
    const read = (number) => cache.get(number) || cache.set(number, unpack(blocks[number])).get(number);
    const form = place.querySelector(".controls");
    const { task, plan, show: kind, text, count } = form.elements;
    const list = place.querySelector(".found");
    const more = place.querySelector(".more");
    const choose = (select, options) => {
      const before = select.value;
      select.replaceChildren(...options.map(([value, label]) => make("option", { value }, label)));
      if (options.some(([value]) => value === before)) select.value = before;
    };
    const ended = (outcome) => outcomes[outcome] || outcome;
    const side = (title, [outcome, answer, whole, start, end]) => {
      const shown = make("pre", { tabindex: "0", "aria-label": `Answer of ${title}` });
      if (start === undefined) shown.append(whole);
      else {
        const part = whole.slice(start, end);
        const word = part.trim();
        const first = word ? start + part.indexOf(word) : start; // the mark begins at the word, not at the space before it
        const last = word ? first + word.length : end;
        shown.append(whole.slice(0, first), make("mark", {}, word || part.replaceAll("\n", "\u21b5\n") || "(ends here)"), whole.slice(last));
      }
      const verdict = make("span", { class: outcome === "right" ? "right" : "wrong" }, ended(outcome));
      const graded = answer && answer !== whole ? [", graded: ", make("code", {}, answer)] : [];
      return make("div", { class: "side" }, make("p", { class: "side-name" }, `${title}: `, verdict, ...graded), shown);
    };
    const card = ([id, question, gold], before, after) =>
      make(
        "article",
        { class: "example" },
        make("p", {}, "Item ", make("code", {}, id), ", right answer ", make("code", {}, gold)),
        make("pre", { tabindex: "0", "aria-label": "Question" }, question),
        make("div", { class: "sides" }, side(original, before), side(plan.value, after)),
      );
    let found = [];
    let shown = 0;
    const next = () => {
      list.append(...found.slice(shown, shown + 20).map((item) => card(...item)));
      shown += 20;
      more.hidden = shown >= found.length;
    };
    const update = async () => {
      const chosen = tasks[task.value];
      choose(plan, chosen.plans.map((one) => [one.name, one.name]));
      const own = chosen.plans.find((one) => one.name === plan.value).block;
      const [[items, before], after] = await Promise.all([read(chosen.block), read(own)]);
      const wrong = [...new Set(after.filter(Boolean).map(([outcome]) => outcome))].filter((one) => one !== "right");
      choose(kind, [
        ["lost", "right before, wrong now"], ...wrong.map((one) => [`lost ${one}`, `right before, now: ${ended(one)}`]),
        ["gained", "wrong before, right now"], ["changed", "all changed answers"],
        ...wrong.map((one) => [`now ${one}`, `all that are now: ${ended(one)}`]), ["all", "all items"],
      ]);
      const [want, outcome] = kind.value.split(" ");
      const words = text.value.toLowerCase();
      const fits = (old, now) =>
        want === "gained" ? old[0] !== "right" && now[0] === "right"
          : want === "changed" ? old[2] !== now[2]
          : (want !== "lost" || (old[0] === "right" && now[0] !== "right")) && (!outcome || now[0] === outcome);
      found = items
        .map((item, number) => [item, before[number], after[number]])
        .filter(([item, old, now]) => now && fits(old, now) && `${item.join(" ")} ${old[2]} ${now[2]}`.toLowerCase().includes(words));
      count.textContent = `${found.length} of ${items.length} items`;
      list.replaceChildren();
      shown = 0;
      next();
    };
    choose(task, tasks.map((one, number) => [String(number), `${one.task}, ${one.words}`]));
    // A cell of the matrix leads to its answers.
    for (const cell of all(".matrix tbody td")) {
      const row = cell.parentElement.cells[0].textContent.trim();
      const head = cell.closest("table").tHead.rows[0].cells[cell.cellIndex].textContent.trim();
      const number = tasks.findIndex((one) => `${one.task}: ${one.readout}` === head);
      const label = cell.querySelector("span");
      if (number < 0 || !label || !tasks[number].plans.some((one) => one.name === row)) continue;
      const go = make("button", { type: "button", title: `Answers of ${row} on ${head}` });
      label.replaceWith(go);
      go.append(label);
      go.addEventListener("click", async () => {
        task.value = String(number);
        choose(plan, tasks[number].plans.map((one) => [one.name, one.name]));
        plan.value = row;
        kind.value = "lost";
        text.value = "";
        await update();
        place.closest("section").scrollIntoView();
      });
    }
    form.hidden = false;
    place.querySelector(".note").hidden = true;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", update);
    more.addEventListener("click", next);
    update();
  }

  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = all("main details:not(.numbers):not([open])");
    unfolded.forEach((part) => (part.open = true));
  });
  addEventListener("afterprint", () => unfolded.forEach((part) => (part.open = false)));
  root.dataset.ready = "1";
})();
