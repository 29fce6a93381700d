// Gives each text of the page whose contrast with what is behind it is below 4.5 (WCAG 2.2, 1.4.3).
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
const context = canvas.getContext("2d", { willReadFrequently: true });
const backgroundsOf = (node) => (node ? [...backgroundsOf(node.parentElement), getComputedStyle(node).backgroundColor] : []);
const paint = (colours) => {
  context.clearRect(0, 0, 1, 1);
  for (const colour of ["#fff", ...colours]) {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
  }
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const luminance = (rgb) => {
  const [red, green, blue] = rgb.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
const poor = [];
for (const node of document.querySelectorAll("#sync *")) {
  if (!hasText(node) || !node.checkVisibility() || node.closest("noscript, dialog, [aria-disabled='true']")) continue;
  const style = getComputedStyle(node);
  const behind = backgroundsOf(node);
  const colour = node.namespaceURI.endsWith("svg") ? style.fill : style.color;
  const [light, dark] = [luminance(paint([...behind, colour])), luminance(paint(behind))].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05);
  if (ratio < 4.5) poor.push(`${node.tagName} ${node.getAttribute("class")} "${node.textContent.trim().slice(0, 30)}": ${ratio.toFixed(2)}`);
}
return poor;
