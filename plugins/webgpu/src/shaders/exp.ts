/**
 * `expNeg(x)`: e^x for x from -87.3 up to 0, within 2e-7 of it; 0 below. WGSL's own exp may be off by |x| last places.
 * x = n ln 2 + r, the first part of ln 2 so short that its product with n is exact; e^r by the
 * coefficients of Cephes' expf, |r| at most 0.35.
 */
export const EXP = /* wgsl */ `
fn expNeg(x: f32) -> f32 {
  let n = round(x * 1.44269504);
  let r = (x - n * 0.693359375) + n * 0.00021219444;
  var e = 0.00019875691500 * r + 0.0013981999507;
  e = e * r + 0.0083334519073;
  e = e * r + 0.041665795894;
  e = e * r + 0.16666665459;
  e = e * r + 0.50000001201;
  e = (e * r * r + r) + 1.0;
  if (x < -87.33654) { return 0.0; }
  return e * bitcast<f32>(bitcast<u32>(i32(n) + 127) << 23u);
}
`;
