// The panels over time: uPlot on one time axis. Data is the page's own JSON, two bytes a point (panels.py).
(() => {
  const root = document.documentElement;
  const { axis, panels } = JSON.parse(document.getElementById('curves').textContent);
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
  const time = Array.from(new Uint32Array(bytes(axis.seconds)), s => axis.start + s);
  const values = c => Array.from(new Uint16Array(bytes(c.points)),
    p => p === 65535 ? null : c.low + c.span * p / 65534);
  const css = name => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const minus = text => text.replace('-', '−');
  const told = {
    percent: v => minus((100 * v).toFixed(Math.abs(v) < 0.1 ? 2 : 1)) + '\u202f%',
    ratio: v => minus(v.toFixed(2)),
    times: v => Math.exp(v).toFixed(2) + '\u202f×',
    price: v => v.toLocaleString('en', { maximumSignificantDigits: v >= 1000 ? 6 : 5 }),
  };
  const ticked = {
    percent: v => minus(String(+(100 * v).toFixed(2))) + '\u202f%',
    ratio: v => minus(String(+v.toFixed(3))),
    times: v => String(+Math.exp(v).toFixed(2)) + '\u202f×',
    price: v => v.toLocaleString('en', { maximumSignificantDigits: 5 }),
  };
  const utc = s => new Date(1000 * s).toISOString().slice(0, 16).replace('T', ' ');

  // a moment in one line, as exact as the axis is wide
  const moments = (u, at, i, space, step) => at.map(s => {
    const text = new Date(1000 * s).toISOString();
    return step >= 28 * 86400 ? text.slice(0, 7) : step >= 86400 ? text.slice(0, 10) : text.slice(5, 16).replace('T', ' ');
  });

  // round multiples on a logarithmic axis: 1.2, 1.4, ... or 1, 2, 5, 10 where the span is wide
  function multiples(u, i, low, high) {
    const [from, to] = [Math.exp(low), Math.exp(high)], found = [];
    if (to / from > 6) {
      for (let p = Math.floor(Math.log10(from)); p <= Math.ceil(Math.log10(to)); p++)
        for (const f of [1, 2, 5]) found.push(f * 10 ** p);
    } else {
      const rough = (to - from) / 5, power = 10 ** Math.floor(Math.log10(rough));
      const step = power * [1, 2, 5, 10].find(f => f * power >= rough);
      for (let k = Math.ceil(from / step); k * step <= to; k++) found.push(k * step);
    }
    return found.filter(v => v >= from && v <= to).map(Math.log);
  }

  // fills over the price: the largest in view, so that the picture stays readable at any zoom
  const MOST = 120;
  function drawFills(fills) {
    return u => {
      const { min, max } = u.scales.x, seen = [];
      for (let i = 0; i < fills.length; i++)
        if (time[i] >= min && time[i] <= max && Math.abs(fills[i]) > 0.001) seen.push(i);
      seen.sort((a, b) => Math.abs(fills[b]) - Math.abs(fills[a]));
      const ctx = u.ctx, r = 4 * devicePixelRatio;
      ctx.save();
      ctx.beginPath(); ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height); ctx.clip();
      for (const i of seen.slice(0, MOST)) {
        const up = fills[i] > 0, x = u.valToPos(time[i], 'x', true), y = u.valToPos(u.data[1][i], 'y', true);
        const s = up ? 1 : -1;
        ctx.fillStyle = css(up ? 'better' : 'worse');
        ctx.beginPath();
        ctx.moveTo(x, y + s * r); ctx.lineTo(x - r, y + s * 2.7 * r); ctx.lineTo(x + r, y + s * 2.7 * r);
        ctx.fill();
      }
      ctx.restore();
    };
  }

  const charts = [];
  let moving = false;
  function together(u, key) {
    if (key !== 'x' || moving) return;
    moving = true;
    const { min, max } = u.scales.x;
    for (const other of charts) if (other !== u) other.setScale('x', { min, max });
    moving = false;
    const whole = min <= time[0] && max >= time[time.length - 1];
    for (const b of document.querySelectorAll('.ranges [data-days]'))
      b.setAttribute('aria-pressed', String(b.dataset.days === '0' && whole));
  }

  const font = '11px system-ui, sans-serif';
  const side = () => innerWidth < 500 ? 50 : 58;
  function made(panel, place) {
    const lines = panel.curves.filter(c => c.kind !== 'fills');
    const fills = panel.curves.find(c => c.kind === 'fills');
    const series = lines.map(c => ({
      label: c.name, scale: c.kind === 'position' ? 'w' : 'y', show: !c.hidden, spanGaps: false,
      stroke: () => css(c.colour), width: c.width || 1.2, dash: c.dash, points: { show: false },
      fill: c.kind === 'position' ? () => css('wash') : undefined,
      paths: c.step ? uPlot.paths.stepped({ align: 1 }) : undefined,
      value: (u, v) => v == null ? '–' : told[c.unit || panel.unit](v),
    }));
    const strokes = { stroke: () => css('soft'), font, grid: { stroke: () => css('line'), width: 1 },
      ticks: { show: false } };
    return new uPlot({
      width: place.clientWidth, height: panel.height, padding: [8, 24, 0, 0],
      tzDate: s => uPlot.tzDate(new Date(1000 * s), 'Etc/UTC'),
      cursor: { sync: { key: 'card', setSeries: false }, drag: { x: true, y: false }, y: false,
        points: { size: 6 } },
      legend: { markers: { width: 0, fill: (u, i) => `var(--${lines[i - 1].colour})` } },
      scales: {
        x: { time: true },
        y: { range: (u, low, high) => {
          if (low == null) return [0, 1];
          if (panel.zero) { low = Math.min(low, 0); high = Math.max(high, 0); }
          const room = 0.06 * ((high - low) || Math.abs(high) || 1);
          return [low < 0 || !panel.zero ? low - room : low, high > 0 || !panel.zero ? high + room : high];
        } },
        // the position fills the lowest third of its panel
        w: { range: (u, low, high) => { const m = Math.max(high || 0, -(low || 0), 0.01);
          return [low < -1e-9 ? -m : 0, (low < -1e-9 ? 5 : 3.2) * m]; } },
      },
      axes: [
        { ...strokes, size: 24, space: 84, values: moments },
        { ...strokes, size: side, space: 34, splits: panel.unit === 'times' ? multiples : undefined,
          values: (u, at) => at.map(v => ticked[panel.unit](v)) },
      ],
      series: [{ label: 'UTC', value: (u, s) => s == null ? '' : utc(s) }, ...series],
      hooks: { setScale: [together], ready: [u => u.setLegend({ idx: time.length - 1 }, false)], draw: fills ? [drawFills(values(fills))] : [] },
    }, [time, ...lines.map(values)], place);
  }

  for (const panel of panels) {
    const place = document.getElementById(panel.name);
    if (!place) continue;
    charts.push(made(panel, place));
  }
  const fit = () => charts.forEach(u => {
    const width = root.dataset.printing ? Math.min(660, u.root.parentElement.clientWidth)
      : u.root.parentElement.clientWidth;
    u.setSize({ width, height: u.height });
  });
  addEventListener('resize', fit);
  addEventListener('look', () => { fit(); charts.forEach(u => u.redraw(false, true)); });

  const first = time[0], last = time[time.length - 1];
  function show(min, max) {
    const length = Math.min(max - min, last - first);
    min = Math.max(first, Math.min(min, last - length));
    if (charts[0]) charts[0].setScale('x', { min, max: min + length });
  }
  document.querySelectorAll('.ranges button').forEach(button => {
    button.onclick = () => {
      const { min, max } = charts[0].scales.x;
      if (button.dataset.step) return show(min + button.dataset.step * (max - min) * 0.8,
        max + button.dataset.step * (max - min) * 0.8);
      const days = +button.dataset.days;
      if (days) show(max - 86400 * days, max); else show(first, last);
      document.querySelectorAll('.ranges [data-days]').forEach(b =>
        b.setAttribute('aria-pressed', String(b === button)));
    };
  });
})();
