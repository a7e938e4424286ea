import type { Report } from './inspect_report.ts';
export function page(_report: Report): string {
  return '';
}
