import { declare, type Kernel, THREADS, type Variant } from './declare.ts';

/** Four neighbours of a row are one byte of TL1; the loops of src/reference/repack_tl.ts, slowest to fastest. */
const TL1 = /* wgsl */ `
fn fourOf(row: u32, col: u32) -> u32 {
  let by = 256u / p.sub;
  let r = row % p.tileRows;
  let c = col % p.tileCols;
  let tile = (row - r) * p.cols + (col - c) * p.tileRows;
  let strip = r / p.sub * p.sub * p.tileCols;
  let rows16 = r % p.sub / 16u * 16u * by;
  return pairs(byteAt((tile + strip + c / by * 256u + rows16 + c % by * 16u) / 4u + row % 16u));
}
`;

/** Four neighbours are some of two triples of TL2, or one byte of pairs. `at` and `col` are of a tile's strip of 32 rows. */
const TL2 = /* wgsl */ `
/** Byte of 32 that belongs to a row of a strip: bits 3 and 4 change places. */
fn byteOf(r: u32) -> u32 { return (r & 7u) | ((r & 8u) << 1u) | ((r & 16u) >> 1u); }

/** The codes of triple t of row r, a byte each. */
fn triple(strip: u32, r: u32, t: u32) -> u32 {
  let both = byteAt(strip / 6u + t / 2u * 32u + byteOf(r));
  let index = (both >> (4u - 4u * (t % 2u))) & 15u;
  let at = p.signsAt + strip / 24u + t / 8u * 32u + 2u * (r % 16u);
  let signs = byteAt(at) | (byteAt(at + 1u) << 8u);
  let minus = ((signs >> (15u - 2u * (t % 8u) - r / 16u)) & 1u) == 1u;
  let u = select(13u + index, 13u - index, minus);
  return ((u / 9u) & 3u) | ((u / 3u % 3u) << 8u) | ((u % 3u) << 16u);
}

fn fourOf(row: u32, col: u32) -> u32 {
  let r = row % p.tileRows;
  let tripled = p.cols - p.cols % p.tileCols;
  if (col < tripled) {
    let c = col % p.tileCols;
    let strip = (row - r) * tripled + (col - c) * p.tileRows + r / 32u * 32u * p.tileCols;
    let skip = 8u * (c % 3u);
    return (triple(strip, r % 32u, c / 3u) >> skip) | (triple(strip, r % 32u, c / 3u + 1u) << (24u - skip));
  }
  let c = (col - tripled) % 32u;
  let tile = (row - r) * (p.cols - tripled) + (col - tripled - c) * p.tileRows;
  return pairs(byteAt(p.pairsAt + (tile + r / 32u * 1024u) / 4u + c / 4u * 32u + byteOf(r % 32u)));
}
`;

/**
 * TL1 or TL2 as I2_S, rows padded with weights 0 to whole blocks of 128, with the tail of 32 bytes behind them: each thread makes
 * whole words, 16 weights of a row. What bytes become that code nothing does not matter, checkTernary tells of them.
 */
export function repackTl(variant: Variant, type: 'tl1' | 'tl2'): Kernel {
  return {
    stem: 'repack_tl',
    code: `${declare(
      variant,
      ['w: array<u32>', '*to: array<u32>'],
      [
        ...['rows: u32', 'cols: u32', 'tileRows: u32', 'tileCols: u32', 'sub: u32'],
        ...['signsAt: u32', 'pairsAt: u32', 'scaleAt: u32'],
      ],
    )}
fn byteAt(at: u32) -> u32 { return (w[at / 4u] >> (8u * (at % 4u))) & 255u; }

/** The codes of a byte of two pairs, a byte each. */
fn pairs(both: u32) -> u32 {
  let a = both >> 4u;
  let b = both & 15u;
  return ((a / 3u) & 3u) | ((a % 3u) << 8u) | (((b / 3u) & 3u) << 16u) | ((b % 3u) << 24u);
}
${type === 'tl1' ? TL1 : TL2}
/** The codes of elements col … col + 3 of a row, a byte each. */
fn codes(row: u32, col: u32) -> u32 {
  if (col >= p.cols) { return 0x01010101u; }
  return fourOf(row, col);
}

@compute @workgroup_size(${THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let rowWords = (p.cols + 127u) / 128u * 8u;
  let scaleTo = p.rows * rowWords;
  for (var i = id.x; i < scaleTo + 8u; i += groups.x * ${THREADS}u) {
    if (i >= scaleTo) {
      to[i] = select(0u, w[p.scaleAt / 4u], i == scaleTo);
      continue;
    }
    let row = i / rowWords;
    let col = i % rowWords / 8u * 128u + i % 8u * 4u;
    to[i] = (codes(row, col) << 6u) | (codes(row, col + 32u) << 4u) | (codes(row, col + 64u) << 2u) | codes(row, col + 96u);
  }
}
`,
  };
}
