// The copy button of an example takes what a reader would type, without prompts and output.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".md-clipboard, .md-code__button");
  const block = button && button.closest(".highlight")?.querySelector("code");
  if (!block || !block.querySelector(".gp")) return;
  const typed = block.textContent
    .split("\n")
    .filter((line) => /^(>>>|\.\.\.)( |$)/.test(line))
    .map((line) => line.slice(4));
  event.stopImmediatePropagation();
  event.preventDefault();
  navigator.clipboard.writeText(typed.join("\n"));
}, true);
