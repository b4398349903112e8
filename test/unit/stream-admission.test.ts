/** Who may be connected to the stream server, and how much is said of it. */
import { expect, test } from '@jest/globals';
import { LargeSets, LineGate, networkOf } from '../../core/stream/admission.ts';

test.each([
  ['192.0.2.1', '192.0.2.1'],
  ['::ffff:192.0.2.1', '192.0.2.1'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
  ['2001:db8:1:2::6', '2001:db8:1:2'],
  ['2001:db8::6', '2001:db8:0:0'],
  ['::1', '0:0:0:0'],
  ['fe80::1%eth0', 'fe80:0:0:0'],
  ['?', '?'],
])('%s is counted as %s', (address, network) => {
  expect(networkOf(address)).toBe(network);
});

test('lines beyond the bound are counted, not written, and none is when all was said', async () => {
  const lines: string[] = [];
  const gate = new LineGate({ maxLines: 3, everyMs: 50, more: (kept) => lines.push(`${kept} more`) });
  for (let index = 0; index < 10; index++) gate.pass(() => lines.push(`line ${index}`));
  expect(lines).toEqual(['line 0', 'line 1', 'line 2']);
  await new Promise((resolve) => setTimeout(resolve, 120));
  expect(lines).toEqual(['line 0', 'line 1', 'line 2', '7 more']);
  gate.pass(() => lines.push('later'));
  await new Promise((resolve) => setTimeout(resolve, 120));
  gate.pass(() => lines.push('last'));
  expect(lines.slice(4)).toEqual(['later', 'last']);
});

test('a place is given back once, and waited for no longer than the deadline or the client', async () => {
  const sets = new LargeSets({ maxAtOnce: 1, everyMs: 0, deadlineMs: 200 });
  const never = new AbortController().signal;
  const leave = await sets.enter(never);
  expect(await sets.enter(never)).toBeNull();
  expect(await sets.enter(AbortSignal.abort())).toBeNull();
  leave?.();
  leave?.();
  const next = await sets.enter(never);
  expect(next).not.toBeNull();
  expect(await sets.enter(never)).toBeNull();
});
