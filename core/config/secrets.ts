/** Secrets live in files only: never in flags, the configuration itself, logs or error messages. */
import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { configurationError } from '../errors/error.ts';
import type { MysqlConfig } from './config.ts';

const maxBytes = 64 * 1024;
const emptyLineBytes = 1;

/**
 * Where a file named in the configuration is to be read. Under systemd (`$CREDENTIALS_DIRECTORY` is set) it is the credential
 * with the same file name, so that one configuration serves the service and an operator at a shell; not an empty one, which
 * is how a unit says that it may be left out (systemd.exec(5), SetCredential= beside LoadCredential=).
 */
export async function secretPlace(file: string, environment: NodeJS.ProcessEnv = process.env): Promise<string> {
  const folder = environment.CREDENTIALS_DIRECTORY;
  if (!folder) return file;
  const credential = join(folder, basename(file));
  const sizeBytes = await stat(credential).then(
    ({ size }) => size,
    () => 0,
  );
  return sizeBytes > emptyLineBytes ? credential : file;
}

/**
 * The text of a secret file, without its trailing newline; read where `secretPlace` says. `warn` hears about a file that everybody on this host may read. QZ2017 unreadable, QZ2018 empty or too long.
 */
export async function readSecret(
  file: string,
  options: { warn?: (sentence: string) => void; environment?: NodeJS.ProcessEnv } = {},
): Promise<string> {
  const place = await secretPlace(file, options.environment);
  const found = await tryRead(place);
  if ('failed' in found)
    throw configurationError(
      'QZ2017',
      `The secret file ${place} cannot be read (${found.failed}).`,
      'Check the path and that this account may read it; under systemd give it with LoadCredential=.',
    );
  if ((found.mode & constants.S_IROTH) !== 0)
    options.warn?.(`the secret file ${place} may be read by everybody on this host; chmod 600 it`);
  return checked(place, found.text);
}

/** What a connection needs, its password just read: the same shape as `MysqlEndpoint` of core/mysql. */
export async function mysqlEndpointOf(
  mysql: MysqlConfig,
  options: { warn?: (sentence: string) => void; environment?: NodeJS.ProcessEnv } = {},
) {
  const { host, port, user, tls, passwordFile } = mysql;
  return { host, port, user, tls, password: passwordFile === null ? '' : await readSecret(passwordFile, options) };
}

function checked(file: string, text: string): string {
  const secret = text.replace(/\r?\n$/, '');
  if (secret === '' || secret.includes('\n') || secret.includes('\0'))
    throw configurationError(
      'QZ2018',
      `The secret file ${file} does not hold exactly one line of text.`,
      'Write the secret alone into it, on one line.',
    );
  return secret;
}

async function tryRead(file: string): Promise<{ text: string; mode: number } | { failed: string }> {
  try {
    // O_NONBLOCK: a pipe in place of the file must not hang the start.
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const { mode, size } = await handle.stat();
    if (size > maxBytes) return { failed: 'longer than 64 KiB' };
    return { text: await handle.readFile('utf8'), mode };
  } catch (error) {
    return { failed: (error as NodeJS.ErrnoException).code ?? 'unreadable' };
  }
}
