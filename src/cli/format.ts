// Numbers as people read them.

/** 2332160 -> "2.33 MB". */
export function bytes(n: number): string {
  return scaled(n, ['B', 'kB', 'MB', 'GB', 'TB'], ' ');
}

/** 5252352 -> "5.25 M". */
export function quantity(n: number): string {
  return scaled(n, ['', 'k', 'M', 'B', 'T'], ' ').trim();
}

function scaled(n: number, units: readonly string[], space: string): string {
  let unit = 0;
  let value = n;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value >= 99.5 ? value.toFixed(0) : value.toPrecision(3)}${space}${units[unit]}`;
}

/** 1234 ms -> "1.2 s". */
export function duration(ms: number): string {
  return ms < 1000
    ? `${ms.toFixed(0)} ms`
    : ms < 100_000
      ? `${(ms / 1000).toFixed(1)} s`
      : `${Math.round(ms / 1000)} s`;
}

/** Time that something still takes: 75 -> "1 min 15 s". */
export function remaining(seconds: number): string {
  const s = Math.ceil(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** Tokens a second: "7.4/s", "153/s". */
export function rate(perSecond: number): string {
  return `${perSecond < 100 ? perSecond.toFixed(1) : perSecond.toFixed(0)} tokens/s`;
}

/** Labels, and what they stand for, under each other. */
export function pairs(rows: readonly (readonly [string, string])[], indent = ''): string {
  const width = Math.max(...rows.map(([label]) => label.length));
  return rows.map(([label, text]) => `${indent}${label.padEnd(width)}  ${text}`.trimEnd()).join('\n');
}

/** A heading and rows under it; columns whose cells all begin with a digit stand to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[], indent = ''): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)));
  const right = head.map((_, i) => rows.every((row) => /^\d/.test(row[i])));
  return [head, ...rows]
    .map((row) => {
      const cells = row.map((cell, i) => (right[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i])));
      return (indent + cells.join('  ')).trimEnd();
    })
    .join('\n');
}
