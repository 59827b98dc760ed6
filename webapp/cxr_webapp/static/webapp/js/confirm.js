// Ask before a form deletes what cannot be had again.

import { findAll } from "./elements.js";

for (const form of findAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}
