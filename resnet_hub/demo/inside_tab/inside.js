// The Inside tab: buttons of drawings, and recorded curves that are drawn epoch by epoch. Loaded after page.js.
"use strict";
(() => {
  // Elements with data-value are buttons, also in SVG. In a group with data-many several can be pressed, else one.
  function pressButtons(element, trigger) {
    const press = (button) => {
      const pressed = () => [...element.querySelectorAll("[data-value][aria-pressed=true]")];
      if ("reset" in button.dataset) {
        pressed().forEach((other) => other.setAttribute("aria-pressed", "false"));
      } else {
        const isOn = button.getAttribute("aria-pressed") === "true";
        const canBeMany = element.querySelector("[data-many]");
        if (!canBeMany) pressed().forEach((other) => other.setAttribute("aria-pressed", "false"));
        button.setAttribute("aria-pressed", String(!canBeMany || !isOn));
      }
      trigger("select", { index: 0, value: pressed().map((other) => other.dataset.value) });
    };
    // On a phone the answer comes below the screen: it is scrolled into view as soon as it is there. Switches stay in
    // view if they fit, since several are pressed one after the other.
    let observer;
    const showAnswer = () => {
      observer?.disconnect();
      if (!resnetHub.isNarrow()) return;
      const [selector, block] = element.querySelector("[data-many]") ? ["#inside-labels", "nearest"] : ["#inside-facts"];
      const answer = document.querySelector(selector);
      observer = new MutationObserver(() => {
        observer.disconnect();
        requestAnimationFrame(() => resnetHub.scrollTo(answer, block));
      });
      observer.observe(answer, { childList: true, subtree: true });
    };
    element.addEventListener("click", ({ target }) => {
      const button = target.closest("[data-value], [data-reset]");
      if (!button) return;
      press(button);
      showAnswer();
    });
    element.addEventListener("keydown", (event) => {
      if (!["Enter", " "].includes(event.key) || !event.target.matches("g[data-value]")) return;
      event.preventDefault();
      press(event.target);
    });
  }

  // -- recorded curves -----------------------------------------------------------------------------------------------

  const FRAME = 350; // milliseconds of an epoch

  // Draws a line, its dots and its band up to an epoch; returns the last value shown.
  function drawLine(line, epoch) {
    line.dataset.points ??= line.getAttribute("points");
    const at = line.dataset.x.split(" ").map(Number);
    const count = at.filter((x) => x <= epoch).length;
    const points = line.dataset.points.trim().split(/\s+/);
    line.setAttribute("points", points.slice(0, count).join(" "));
    let dot = line.nextElementSibling;
    for (let index = 0; index < at.length && dot?.matches("circle"); index++, dot = dot.nextElementSibling) {
      dot.style.visibility = index < count ? "" : "hidden";
    }
    const band = line.ownerSVGElement.querySelector(`polygon[data-name="${line.dataset.name}"]`);
    if (band) {
      band.dataset.points ??= band.getAttribute("points");
      const edges = band.dataset.points.trim().split(/\s+/); // the lower one, and back along the upper one
      band.setAttribute("points", [...edges.slice(0, count), ...edges.slice(edges.length - count)].join(" "));
    }
    return { text: line.dataset.y.split(" ")[count - 1] ?? "–", x: points[count - 1]?.split(",")[0] };
  }

  function showEpoch(player, epoch) {
    const slider = player.querySelector("input[type=range]");
    slider.value = epoch;
    player.querySelector("output").textContent = epoch;
    player.querySelectorAll("figure").forEach((figure, column) => {
      let x = "-9";
      for (const line of figure.querySelectorAll("polyline[data-name]")) {
        const shown = drawLine(line, epoch);
        x = shown.x ?? x;
        const row = [...player.querySelectorAll("tr[data-name]")].find(({ dataset }) => dataset.name === line.dataset.name);
        if (row) row.cells[column + 1].textContent = shown.text;
      }
      const marker = figure.querySelector(".marker");
      marker.setAttribute("x1", x);
      marker.setAttribute("x2", x);
    });
  }

  function pause(player) {
    clearInterval(player.timer);
    player.timer = null;
    const button = player.querySelector("[data-play]");
    if (button.dataset.label) button.textContent = button.dataset.label;
  }

  function play(player) {
    const button = player.querySelector("[data-play]");
    const slider = player.querySelector("input[type=range]");
    button.dataset.label ??= button.textContent;
    button.textContent = button.dataset.pause;
    let epoch = Number(slider.value) >= Number(slider.max) ? 0 : Number(slider.value);
    showEpoch(player, epoch);
    player.timer = setInterval(() => {
      if (epoch >= Number(slider.max) || !player.isConnected) return pause(player);
      showEpoch(player, (epoch += 1));
    }, FRAME);
  }

  // The epoch under the pointer: the nearest of the dots.
  function hover(player, svg, clientX) {
    const line = svg.querySelector("polyline[data-name]");
    const matrix = svg.getScreenCTM();
    if (!line || !matrix) return;
    const x = (clientX - matrix.e) / matrix.a;
    const points = (line.dataset.points ?? line.getAttribute("points")).trim().split(/\s+/);
    const distances = points.map((point) => Math.abs(point.split(",")[0] - x));
    showEpoch(player, Number(line.dataset.x.split(" ")[distances.indexOf(Math.min(...distances))]));
  }

  function playCurves(element) {
    element.addEventListener("click", ({ target }) => {
      const player = target.closest("[data-play]")?.closest(".player");
      if (player) (player.timer ? pause : play)(player);
    });
    element.addEventListener("input", ({ target }) => {
      const player = target.closest(".player");
      if (!player) return;
      pause(player);
      showEpoch(player, Number(target.value));
    });
    element.addEventListener("pointermove", ({ target, clientX }) => {
      const svg = target.closest(".player .chart > svg");
      const player = svg?.closest(".player");
      if (player && !player.timer) hover(player, svg, clientX);
    });
    element.addEventListener("pointerout", ({ target, relatedTarget }) => {
      const player = target.closest(".player .chart > svg")?.closest(".player");
      if (player && !player.timer && !relatedTarget?.closest(".player .chart > svg")) {
        showEpoch(player, Number(player.querySelector("input[type=range]").max));
      }
    });
  }

  Object.assign(window.resnetHub, { pressButtons, playCurves });
})();
