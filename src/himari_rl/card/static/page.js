// Light or dark by hand, and everything open in print.
(() => {
  const root = document.documentElement;
  const prefers = matchMedia('(prefers-color-scheme: dark)');
  const redraw = () => dispatchEvent(new Event('look'));
  document.getElementById('theme').onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : prefers.matches;
    root.dataset.theme = dark ? 'light' : 'dark';
    redraw();
  };
  prefers.addEventListener('change', redraw);
  let closed = [];
  addEventListener('beforeprint', () => {
    closed = [...document.querySelectorAll('details:not([open])')];
    closed.forEach(each => { each.open = true; });
    root.dataset.printing = 'yes';
    redraw();
  });
  addEventListener('afterprint', () => {
    closed.forEach(each => { each.open = false; });
    delete root.dataset.printing;
    redraw();
  });
  root.dataset.ready = 'yes';
})();
