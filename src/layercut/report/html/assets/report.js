// Draws the plots, switches between light and dark, and unfolds everything for print. No network.
(() => {
  "use strict";
  const root = document.documentElement;
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

  const draw = async (plot) => {
    if (plot.dataset.drawn) return;
    plot.dataset.drawn = "1";
    try {
      await vegaEmbed(plot, JSON.parse(plot.dataset.spec), { actions: false, renderer: "svg", ast: true });
    } catch (error) {
      plot.textContent = "This plot could not be drawn; its numbers are in the table below.";
      console.error(error);
    }
  };
  // Plots in folded parts have no width yet; they are drawn when they are unfolded.
  const drawVisible = () =>
    Promise.all([...document.querySelectorAll(".plot")].filter((plot) => plot.clientWidth > 0).map(draw));
  document.addEventListener("toggle", drawVisible, true);

  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("main details:not(.numbers):not([open])")];
    unfolded.forEach((part) => (part.open = true));
  });
  addEventListener("afterprint", () => unfolded.forEach((part) => (part.open = false)));
  drawVisible().then(() => (root.dataset.drawn = "1"));
})();
