/** What a standby knows of itself, durable in `standby.json` of its folder: which copy it is, and how far it came. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { errorCode } from '../core/archive/store-error.ts';
import { replaceFile } from '../core/bytes/durable-file.ts';
import { configurationError } from '../core/errors/error.ts';
import { atPlace } from '../core/restore/place-error.ts';

const stateName = 'standby.json';

const schema = z.strictObject({
  format: z.literal(1),
  source: z.string(),
  /** `filling`: the data folder is not a server yet. `ready`: it is one, with all that the snapshot holds. */
  step: z.enum(['filling', 'ready']),
  /** Its id; empty while what was there before is still to be removed. */
  snapshot: z.string(),
  /** Of the timeline that the snapshot was chosen for. */
  generation: z.number().int().positive(),
  serverId: z.number().int().positive(),
  /** Settings of the source that the data depends on (manifest of the snapshot). */
  settings: z.record(z.string(), z.string()),
  /** Its events as the snapshot had them; null before its server ran for the first time. */
  events: z
    .strictObject({
      gtids: z.string(),
      statuses: z.record(z.string(), z.enum(['ENABLED', 'DISABLED', 'REPLICA_SIDE_DISABLED'])),
    })
    .nullable(),
  /** When it was filled last (ms since 1970), and why. */
  filledAtMs: z.number(),
  reason: z.string(),
  /** The newest source that was met where `source.mysql` leads to, and where that was. */
  met: z.strictObject({ uuid: z.string(), host: z.string(), port: z.number() }).nullable().default(null),
});

export type StandbyState = z.output<typeof schema>;

/** Null when the folder was never a standby's. Throws QZ2710 when the file says something else than a state. */
export async function readStandbyState(dir: string): Promise<StandbyState | null> {
  const path = join(dir, stateName);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return null;
    throw unreadable(path, error);
  }
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    throw unreadable(path, error);
  }
}

export async function writeStandbyState(dir: string, state: StandbyState): Promise<void> {
  await atPlace(dir, async () => {
    await mkdir(dir, { recursive: true, mode: 0o755 });
    await replaceFile(join(dir, stateName), `${JSON.stringify(state, null, 2)}\n`);
  });
}

function unreadable(path: string, cause: unknown) {
  return configurationError(
    'QZ2710',
    `The standby's own ${path} cannot be understood (${cause instanceof Error ? cause.message.split('\n')[0] : cause}).`,
    'Look whether another program wrote to it. With an empty folder the standby is filled again from a snapshot.',
    { cause },
  );
}
