/**
 * Rows under their titles, for a terminal. Columns of numbers stand to the right.
 *
 * @param {string} title
 * @param {readonly string[]} columns
 * @param {readonly Record<string, unknown>[]} rows
 */
export function table(title, columns, rows) {
  const texts = [columns, ...rows.map((row) => columns.map((name) => String(row[name] ?? '-')))];
  const widths = columns.map((_, i) => Math.max(...texts.map((line) => line[i].length)));
  const numbers = columns.map((_, i) => texts.slice(1).every((line) => /^([\d.]+|-)$/.test(line[i])));
  const [head, ...body] = texts.map((line) =>
    line.map((cell, i) => (numbers[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('  '),
  );
  return [title, '', head, widths.map((width) => '-'.repeat(width)).join('  '), ...body]
    .map((l) => l.trimEnd())
    .join('\n');
}
