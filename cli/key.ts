/** `qazyna key new | id`: the keys of encrypted archives. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { makeKeyFile, readKey } from '../core/archive/keys.ts';
import { exitCodes } from '../core/errors/error.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

export function addKey(program: Command, frame: Frame): void {
  const key = program
    .command('key')
    .summary('make a key for encrypted archives, or tell which one a file holds')
    .helpCommand(false);
  addVerb(key, frame, {
    usage: 'new <file>',
    summary: 'make a new key in a new file',
    about:
      'Without its key nobody reads an encrypted archive: keep a copy away from this host before anything is written with it. `base64 FILE` prints it as one line for paper, `base64 -d` brings it back.',
    examples: [['key new /etc/qazyna/keys/2026-11', 'For archives.NAME.encryption.key_file']],
    run: make,
  });
  addVerb(key, frame, {
    usage: 'id <file>',
    summary: 'tell the id of the key in a file: messages and archives name keys by it',
    examples: [['key id /etc/qazyna/keys/2026-11', 'Is this the one that is wanted?']],
    run: tell,
  });
}

async function make(context: Context, _options: unknown, named = ''): Promise<number> {
  const { id, file } = await makeKeyFile(resolve(named));
  context.out.result({ key: { id, file } }, [
    `${file} holds the new key ${id}.`,
    'Give it to the account that runs qazyna, and keep a copy away from this host: without it nobody reads what it encrypts.',
  ]);
  return exitCodes.done;
}

async function tell(context: Context, _options: unknown, named = ''): Promise<number> {
  const warn = (sentence: string) => context.logger.warn(sentence);
  const { id, file } = await readKey(resolve(named), { warn, environment: {} });
  context.out.result({ key: { id, file } }, [id]);
  return exitCodes.done;
}
