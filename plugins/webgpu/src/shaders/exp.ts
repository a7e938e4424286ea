/**
 * `exponential(x)`: e^x within 2e-7, 0 below -87.3 and no more than e^88.376 above, step by step as the CPU's kernels compute it
 * (`expF32x4` of assembly/lanes.ts), so with the same bits. WGSL's own exp may be off by |x| last places. Wants EXACT.
 */
export const EXP = /* wgsl */ `
fn exponential(x: f32) -> f32 {
  let clamped = clamp(x, -87.33654, 88.37626);
  let n = round(rounded(clamped * 1.44269504));
  let r = rounded(rounded(clamped - rounded(n * 0.693359375)) - rounded(n * -2.12194440e-4));
  var e = rounded(rounded(1.9875691500e-4 * r) + 1.3981999507e-3);
  e = rounded(rounded(e * r) + 8.3334519073e-3);
  e = rounded(rounded(e * r) + 4.1665795894e-2);
  e = rounded(rounded(e * r) + 1.6666665459e-1);
  e = rounded(rounded(e * r) + 5.0000001201e-1);
  e = rounded(rounded(rounded(e * rounded(r * r)) + r) + 1.0);
  if (x < -87.33654) { return 0.0; }
  return bitcast<f32>(bitcast<u32>(e) + (bitcast<u32>(i32(n)) << 23u));
}
`;
