// What Gradio's components cannot do on this page. Loaded before Gradio's own script.
"use strict";
(() => {
  const query = (selector) => document.querySelector(selector);
  const isNarrow = () => matchMedia("(max-width: 700px)").matches;

  function scrollTo(element) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }

  // -- photos --------------------------------------------------------------------------------------------------------

  // Gradio refuses files that the browser gives no image type, such as HEIC. The server decides, and gives a reason.
  function withImageType(files) {
    const transfer = new DataTransfer();
    for (const file of files) {
      const isImage = file.type.startsWith("image/");
      transfer.items.add(isImage ? file : new File([file], file.name, { type: "image/unknown" }));
    }
    return transfer.files;
  }

  const needsType = (files) => [...files].some((file) => !file.type.startsWith("image/"));

  function retype(event) {
    const box = event.target.closest?.("#photo, #several-files, #compare-photo");
    const files = event.dataTransfer?.files ?? event.target.files;
    if (!box || !files?.length || !needsType(files)) return;
    const input = box.querySelector("input[type=file]");
    event.preventDefault();
    event.stopImmediatePropagation();
    input.files = withImageType(input.multiple ? files : [files[0]]);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  function takePhoto() {
    const input = query("#photo input[type=file]");
    if (!input) return;
    input.setAttribute("capture", "environment");
    input.click();
    input.removeAttribute("capture");
  }

  // -- the answer ----------------------------------------------------------------------------------------------------

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

  let announced = null;
  function noteAnswer() {
    const heading = query("#classes h2");
    if (!heading || heading === announced) return;
    announced = heading;
    announce(`${heading.textContent}, ${query("#classes .score").textContent}`);
    if (isNarrow()) scrollTo(query("#classes"));
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
    await navigator.clipboard.writeText(link);
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

  silenceGradio();
  document.addEventListener("change", retype, true);
  document.addEventListener("drop", retype, true);
  document.addEventListener("input", setStrength);
  document.addEventListener("click", copyLink);
  document.addEventListener("keydown", moveBetweenTabs);
  addEventListener("load", () => {
    let scheduled = false;
    const update = () => {
      scheduled = false;
      noteAnswer();
      setTitle();
      openApi();
      mendFields();
    };
    new MutationObserver(() => {
      if (!scheduled) requestAnimationFrame(update);
      scheduled = true;
    }).observe(document.body, { childList: true, subtree: true, attributeFilter: ["aria-selected"] });
    update();
  });

  window.resnetHub = { rows, takePhoto };
})();
