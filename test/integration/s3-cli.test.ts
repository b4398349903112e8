/** Reading verbs on a host that knows only the bucket and a file with the reader's keys. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openArchive } from '../../core/archive/open.ts';
import { verb } from '../lab/running.ts';
import { writeS3Credentials } from '../lab/s3.ts';
import { archive } from '../made/archive.ts';
import { S3World } from '../made/s3.ts';
import { makeSample } from '../made/sample.ts';

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

describe('reading verbs on S3', () => {
  test('windows --from s3://… shows what the shipper put; what is wrong is one sentence without secrets', async () => {
    const keys = await world.user('shipper', 'e2e');
    const { store } = await openArchive(await world.url('e2e', { keys }), { create: true });
    await archive(store, makeSample().chain.folded, 3000);
    const reader = await world.user('reader', 'e2e');
    const file = join(world.dir, 'reader.credentials');
    await writeS3Credentials(file, reader);
    const url = new URL(await world.url('e2e'));
    url.searchParams.delete('credentials_file');
    const windows = (from: string) => verb(['windows', '--json', '--from', from, '--credentials-file', file]);
    const shown = await windows(url.href);
    // Attention: there is history, and no snapshot yet to restore it from.
    expect(shown.code).toBe(5);
    expect(JSON.parse(shown.stdout)).toMatchObject({
      archives: [{ name: 's3://qazyna-lab/e2e', error: null, timelines: [{ transactions: 120, gaps: [] }] }],
    });
    const cases = [
      [url.href.replace('/e2e', '/other'), 'QZ2417'],
      [url.href.replace('qazyna-lab', 'no-bucket'), 'QZ2414'],
      [`${url.href}&secret=x`, 'QZ2407'],
    ] as const;
    for (const [from, code] of cases) {
      const refused = await windows(from);
      expect(refused.code).toBe(2);
      expect(JSON.parse(refused.stdout)).toMatchObject({ error: { code } });
      expect(refused.stdout + refused.stderr).not.toContain(reader.secret);
    }
  }, 120_000);
});
