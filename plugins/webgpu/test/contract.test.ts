import { contract } from '../../../test/contract.js';
import { webgpu } from '../dist/index.js';

contract('webgpu', () => webgpu());
