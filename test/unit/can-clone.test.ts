import { expect, test } from '@jest/globals';
import { canClone } from '../../restore-tool/into-server/recipient.ts';

test.each([
  ['9.7.4', '9.7.1', true],
  ['8.4.2', '8.4.9', true],
  ['8.0.37', '8.0.44', true],
  ['8.0.36', '8.0.44', false],
  ['8.0.44', '8.0.9', false],
  ['8.0.36', '8.0.36', true],
  ['9.6.0', '9.6.0', true],
  ['9.6.0', '9.6.1', false],
  ['8.3.0', '8.3.1', false],
  ['8.4.2', '9.7.4', false],
])('%s from %s: %s', (recipient, donor, is) => expect(canClone(recipient, donor)).toBe(is));
