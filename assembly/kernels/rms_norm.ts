/**
 * h = x / sqrt(mean(x^2) + eps) * weight; x, weight, h f32 [dim], dim a multiple of 4; h may be x.
 * ggml's arithmetic: squares in f32, their sum in f64, the unweighted norm rounded before the weight.
 */
export function rmsNorm(x: usize, weight: usize, eps: f32, dim: i32, h: usize): void {
  const bytes = <usize>dim << 2;
  let low = f64x2.splat(0), high = f64x2.splat(0);
  for (let i: usize = 0; i < bytes; i += 16) {
    const v = v128.load(x + i);
    const square = f32x4.mul(v, v);
    low = f64x2.add(low, f64x2.promote_low_f32x4(square));
    high = f64x2.add(high, f64x2.promote_low_f32x4(i64x2.shuffle(square, square, 1, 0)));
  }
  low = f64x2.add(low, high);
  const mean = <f32>((f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1)) / <f64>dim);
  const scale = f32x4.splat(<f32>1 / sqrt<f32>(mean + eps));
  for (let i: usize = 0; i < bytes; i += 16) {
    v128.store(h + i, f32x4.mul(f32x4.mul(v128.load(x + i), scale), v128.load(weight + i)));
  }
}

/** x += RMSNorm(y) * weight, y f32 [dim] becoming scratch. */
export function addRmsNorm(y: usize, weight: usize, eps: f32, dim: i32, x: usize): void {
  rmsNorm(y, weight, eps, dim, y);
  for (const end = y + (<usize>dim << 2); y < end; y += 16, x += 16) {
    v128.store(x, f32x4.add(v128.load(x), v128.load(y)));
  }
}
