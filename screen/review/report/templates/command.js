// Adds a button that copies the command of the next step.
(() => {
  const command = document.querySelector(".command");
  if (!command || !navigator.clipboard) return;
  const button = document.createElement("button");
  const status = document.createElement("span");
  button.type = "button";
  button.textContent = "Copy";
  status.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.querySelector("code").textContent);
      status.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command.querySelector("code"));
      status.textContent = "Press Ctrl+C to copy";
    }
  });
  command.append(button, status);
})();
