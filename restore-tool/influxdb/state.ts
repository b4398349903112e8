/** `WORK/restore.json`: which restore this is and how far it is, so that the same command goes on after it was killed. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { replaceFile } from '../../core/bytes/durable-file.ts';
import { configurationError } from '../../core/errors/error.ts';

const schema = z.object({
  format: z.literal(1),
  chainName: z.string(),
  snapshot: z.string(),
  to: z.string(),
  url: z.string(),
  database: z.string(),
  fromDatabase: z.string(),
  /** Whether the database was made by this restore. */
  isOurs: z.boolean(),
  /** Files of the snapshot that are written, in their order. */
  files: z.number(),
  points: z.number(),
  /** Points of theirs in shards that the retention policy had dropped by then, and that are not written. */
  expired: z.number(),
  setAside: z.object({ count: z.number(), bytes: z.number() }),
  step: z.enum(['load', 'replay', 'done']),
});

export type InfluxdbRestoreState = z.infer<typeof schema>;

export class StateFile {
  readonly #path: string;

  constructor(workDir: string) {
    this.#path = join(workDir, 'restore.json');
  }

  /** Null when there is none, or when the last one is done. Throws QZ2928 when another restore is under way there. */
  async read(
    wanted: Omit<InfluxdbRestoreState, 'isOurs' | 'files' | 'points' | 'expired' | 'setAside' | 'step' | 'format'>,
  ) {
    const text = await readFile(this.#path, 'utf8').catch(() => null);
    if (text === null) return null;
    const parsed = schema.safeParse(parse(text));
    if (!parsed.success || parsed.data.step === 'done') return null;
    const state = parsed.data;
    const other = (Object.keys(wanted) as (keyof typeof wanted)[]).find((key) => state[key] !== wanted[key]);
    if (other === undefined) return state;
    throw configurationError(
      'QZ2928',
      `Another restore is under way in ${this.#path}: of ${state.chainName} to ${state.to} into ${state.database} at ${state.url}.`,
      'Give the same command to go on with it, or another folder with --work.',
    );
  }

  async write(state: InfluxdbRestoreState): Promise<void> {
    await mkdir(join(this.#path, '..'), { recursive: true });
    await replaceFile(this.#path, `${JSON.stringify(state, null, 2)}\n`);
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
