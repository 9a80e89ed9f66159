// What Gradio's components cannot do on this page. Loaded before Gradio's own script.
"use strict";
(() => {
  const query = (selector) => document.querySelector(selector);
  const isNarrow = () => matchMedia("(max-width: 700px)").matches;

  function scrollTo(element, block = "start") {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ behavior: calm ? "auto" : "smooth", block });
  }

  // -- the labels ----------------------------------------------------------------------------------------------------

  function rows(element, trigger) {
    element.addEventListener("click", ({ target }) => {
      const chosen = target.closest("button[data-label]");
      if (!chosen) return;
      for (const row of element.querySelectorAll("button[data-label]")) {
        row.setAttribute("aria-pressed", String(row === chosen));
      }
      trigger("select", { index: Number(chosen.dataset.index), value: chosen.dataset.label });
    });
  }

  // A tap on a button with an index, for the handler of `select`.
  function tap(element, trigger) {
    element.addEventListener("click", ({ target }) => {
      const button = target.closest("button[data-index]");
      if (!button) return;
      trigger("select", { index: Number(button.dataset.index), value: "" });
      if (button.matches(".frame")) scrollTo(query("#photo-panel")); // where the photo and its labels come
    });
  }

  function announce(text) {
    let region = query("#announcer");
    if (!region) {
      region = document.createElement("p");
      region.id = "announcer";
      region.setAttribute("role", "status");
      document.body.append(region);
    }
    if (region.textContent !== text) region.textContent = text;
  }

  let noted = "";
  let settling = 0;
  function noteLabels() {
    const labels = query("#classes"); // Gradio changes its elements and keeps them
    if (!labels || labels.textContent === noted) return;
    noted = labels.textContent;
    const heading = labels.querySelector("h2");
    if (!heading) return;
    const [name, score] = [".name", ".score"].map((selector) => labels.querySelector(selector).textContent.trim());
    announce(`${[...new Set([heading.textContent, name])].join(" ")}, ${score}`);
    if (isNarrow()) scrollTo(labels);
    clearTimeout(settling);
    settling = setTimeout(resnetHub.settle, 300); // Gradio changes the photo after the labels
  }

  let refused = "";
  function noteRefusal() {
    const notice = query("#photo-notice [role=alert]");
    const text = notice?.textContent ?? "";
    if (text === refused) return;
    refused = text;
    if (notice && isNarrow()) scrollTo(notice); // it is below the photo
  }

  // -- the page ------------------------------------------------------------------------------------------------------

  function setStrength({ target }) {
    if (!target.matches(".strength input")) return;
    for (const heat of target.closest("label").parentElement.querySelectorAll(".heat")) {
      heat.style.opacity = target.value / 100;
    }
  }

  async function copyLink({ target }) {
    const button = target.closest?.("[data-copy]");
    if (!button) return;
    const link = new URL(button.dataset.copy, location.origin + location.pathname);
    try {
      await navigator.clipboard.writeText(link);
    } catch {
      prompt("", link); // without HTTPS there is no clipboard
      return;
    }
    announce(button.dataset.done);
    button.textContent = button.dataset.done;
  }

  function moveBetweenTabs(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const tab = event.target.closest?.("[role=tab]");
    if (!step || !tab) return;
    const tabs = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]:not(:disabled)")];
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
    event.preventDefault();
  }

  function setTitle() {
    const tab = query("[role=tab][aria-selected=true]");
    if (tab) document.title = `${tab.textContent.trim()} · resnet_hub`;
  }

  // At `?view=api` Gradio believes that the description of the API is open, but has not loaded it: close it, and open it.
  let showsApi = new URLSearchParams(location.search).get("view") !== "api";
  function openApi() {
    const link = query("footer .show-api");
    if (showsApi || !link) return;
    showsApi = true;
    link.click();
    link.click();
  }

  function mendFields() {
    // Gradio names its upload areas otherwise than they read, in English.
    for (const area of document.querySelectorAll("button[aria-dropeffect][aria-label]")) {
      if (area.textContent.trim()) area.removeAttribute("aria-label");
    }
    // Gradio's title of a step on a phone is English: "Step 1/4:".
    for (const title of document.querySelectorAll(".step-title strong")) {
      const text = title.firstChild;
      if (text?.data?.startsWith("Step ")) text.data = text.data.slice("Step ".length);
    }
    // Gradio shows 0 in an empty field, and hides what the placeholder says.
    for (const field of document.querySelectorAll("input[type=number][placeholder]:not(:focus)")) {
      if (field.value === "0") field.value = "";
    }
  }

  // Gradio's client warns at each upload, and reports the calls that end with the page as errors.
  function silenceGradio() {
    const { warn, error } = console;
    console.warn = (...args) => args[0] === "Method not implemented." || warn(...args);
    addEventListener("beforeunload", () => {
      console.error = () => {};
      setTimeout(() => (console.error = error), 1000);
    });
  }

  // Gradio takes both clicks of a double click before it notices that the first has started something.
  function ignoreSecondClick(event) {
    if (event.detail > 1 && event.target.closest("button.primary")) event.stopImmediatePropagation();
  }

  // A file that is no image leaves an empty box, not the browser's sign of a broken one.
  function hideBroken({ type, target }) {
    if (target.matches?.("#photo img")) target.style.visibility = type === "error" ? "hidden" : "";
  }

  silenceGradio();
  for (const type of ["error", "load"]) document.addEventListener(type, hideBroken, true);
  document.addEventListener("click", ignoreSecondClick, true);
  document.addEventListener("input", setStrength);
  document.addEventListener("click", copyLink);
  document.addEventListener("keydown", moveBetweenTabs);
  addEventListener("load", () => {
    let scheduled = false;
    const update = () => {
      scheduled = false;
      noteLabels();
      noteRefusal();
      resnetHub.notePhotos();
      setTitle();
      openApi();
      mendFields();
    };
    new MutationObserver(() => {
      if (!scheduled) requestAnimationFrame(update);
      scheduled = true;
    }).observe(document.body, { childList: true, characterData: true, subtree: true, attributeFilter: ["aria-selected"] });
    update();
  });

  window.resnetHub = { rows, tap, announce, isNarrow, scrollTo };
})();
