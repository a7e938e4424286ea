/** A comparison that failed says where it was worst. */
export interface Agreement {
  /** The op and its case. */
  readonly op: string;
  readonly seed: number;
  readonly expected: ArrayLike<number>;
  readonly actual: ArrayLike<number>;
  /** Largest |actual - expected|, one for each number; left out, they have to be equal. */
  readonly bound?: ArrayLike<number>;
}

/** Throws unless every actual is within its bound of the expected. NaN agrees with NaN alone, -0 with 0. */
export function agree({ op, seed, expected, actual, bound }: Agreement): void {
  if (actual.length !== expected.length) {
    throw new Error(`${op}: ${actual.length} numbers, expected ${expected.length} (seed ${seed})`);
  }
  let worst = -1;
  let worstRatio = 1;
  let failed = 0;
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] === expected[i] || (Number.isNaN(actual[i]) && Number.isNaN(expected[i]))) continue;
    const difference = Math.abs(actual[i] - expected[i]);
    // Where numbers have to be equal, the worst is the one that is furthest off.
    const ratio = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : bound ? difference / bound[i] : difference;
    if (bound && ratio <= 1) continue;
    failed++;
    if (worst < 0 || ratio > worstRatio) [worst, worstRatio] = [i, ratio];
  }
  if (worst < 0) return;
  throw new Error(
    `${op}: ${failed} of ${expected.length} numbers disagree, worst at index ${worst}: expected ${expected[worst]}, ` +
      `actual ${actual[worst]}, bound ${bound ? bound[worst] : 'equal'} (seed ${seed})`,
  );
}
