import { contract } from '../../../test/contract.js';
import { webgpu } from '../dist/index.js';
import { ABILITIES } from './abilities.js';

// Without its self-test, so that the op that is wrong is told.
contract('webgpu', () => webgpu({ selfTest: false }), ABILITIES);
