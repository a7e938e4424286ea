import { expect, it } from 'vitest';
import { openDevice } from '../dist/device.js';
import { emptyDevice } from './counting_device.js';
import { encoded, SHAPE_DEMO } from './shape.js';

it.each([1, 4])('the empty device is asked for what this one is, by tokens of %s sequences', async (rows) => {
  const { device } = await openDevice({});
  const here = await encoded(device, SHAPE_DEMO, rows, 3);
  expect(here.dispatches).toBeGreaterThan(3 * 6 * SHAPE_DEMO.layers);
  expect(await encoded(emptyDevice(device.limits), SHAPE_DEMO, rows, 3)).toEqual(here);
  device.destroy();
});
