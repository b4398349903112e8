/**
 * What a place in S3 names on this host: the authorities its certificate may come from, and a file with access keys, read
 * anew when it changes, so that keys can be rotated under a running daemon. What is in it is never shown.
 */
import { open, readFile } from 'node:fs/promises';
import { getCACertificates } from 'node:tls';
import { secretPlace } from '../config/secrets.ts';
import { configurationError } from '../errors/error.ts';
import type { S3Place } from './s3-place.ts';
import { errorCode, errorText } from './store-error.ts';

/** Shaped as the SDK's AwsCredentialIdentity. */
export interface AccessKeys {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string;
}

const fileBytesMax = 64 * 1024;
/** A changed file is noticed within this time; at once when its keys were refused. */
const lookEveryMs = 1000;
const section = 'default';

export class CredentialsFile {
  readonly #named: string;
  /** Where it is read: a systemd credential of the same name goes before. */
  #path: string;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #warn: (sentence: string) => void;
  #keys: AccessKeys | null = null;
  /** Tells one state of the file from another. */
  #stamp = '';
  #lookedMs = Number.NEGATIVE_INFINITY;
  #warned = false;

  constructor(path: string, warn: (sentence: string) => void, environment: NodeJS.ProcessEnv = process.env) {
    this.#named = path;
    this.#path = path;
    this.#warn = warn;
    this.#environment = environment;
  }

  /** The present keys. Throws QZ2419 naming the file when it cannot be read or holds none. */
  async keys(): Promise<AccessKeys> {
    const isFresh = performance.now() - this.#lookedMs < lookEveryMs;
    return this.#keys !== null && isFresh ? this.#keys : await this.#look();
  }

  /** After keys were refused: whether the file holds other ones by now. */
  async haveChanged(refused: AccessKeys | null): Promise<boolean> {
    this.#stamp = '';
    const found = await this.#look();
    return found.accessKeyId !== refused?.accessKeyId || found.secretAccessKey !== refused.secretAccessKey;
  }

  /** Keys that were read once are kept while the file is being written anew or is gone for a moment. */
  async #look(): Promise<AccessKeys> {
    try {
      this.#keys = await this.#read();
    } catch (error) {
      if (this.#keys === null) throw error;
      this.#warn(`${errorText(error)} The keys read before are still used.`);
    }
    this.#lookedMs = performance.now();
    return this.#keys;
  }

  async #read(): Promise<AccessKeys> {
    this.#path = await secretPlace(this.#named, this.#environment);
    const handle = await open(this.#path, 'r').catch((error: unknown) => {
      throw this.#refuse(`cannot be read (${errorCode(error)})`, error);
    });
    try {
      const { mode, size, mtimeNs, ino } = await handle.stat({ bigint: true });
      const stamp = `${ino}-${size}-${mtimeNs}`;
      if (this.#keys !== null && stamp === this.#stamp) return this.#keys;
      if (size > fileBytesMax) throw this.#refuse(`is larger than ${fileBytesMax} bytes`);
      if ((mode & 0o004n) !== 0n && !this.#warned) {
        this.#warned = true;
        this.#warn(`The credentials file ${this.#path} may be read by everybody on this host: chmod 600 it.`);
      }
      const keys = this.#parse(await handle.readFile('utf8'));
      this.#stamp = stamp;
      return keys;
    } catch (error) {
      throw errorCode(error) === 'EISDIR' ? this.#refuse('is a folder', error) : error;
    } finally {
      await handle.close();
    }
  }

  /** "Configuration and credential file settings" of the AWS SDKs and Tools Reference Guide. */
  #parse(text: string): AccessKeys {
    const found = new Map<string, string>();
    let at = '';
    for (const line of text.split(/\r?\n/).map((each) => each.trim())) {
      const header = /^\[\s*([^\]]+?)\s*\]/.exec(line);
      const setting = /^([A-Za-z_]+)\s*=\s*(.*)$/.exec(line);
      if (header !== null) at = header[1] ?? '';
      else if (at === section && setting !== null) found.set((setting[1] ?? '').toLowerCase(), setting[2] ?? '');
    }
    const accessKeyId = found.get('aws_access_key_id') ?? '';
    const secretAccessKey = found.get('aws_secret_access_key') ?? '';
    const sessionToken = found.get('aws_session_token') ?? '';
    if (accessKeyId === '' || secretAccessKey === '') {
      throw this.#refuse(`has no aws_access_key_id and aws_secret_access_key in its section [${section}]`);
    }
    return { accessKeyId, secretAccessKey, ...(sessionToken === '' ? {} : { sessionToken }) };
  }

  #refuse(why: string, cause?: unknown) {
    return configurationError(
      'QZ2419',
      `The credentials file ${this.#path} ${why}.`,
      `Write it like ~/.aws/credentials: [${section}], then aws_access_key_id = … and aws_secret_access_key = …; this account must be able to read it, under systemd by LoadCredential=.`,
      cause === undefined ? {} : { cause },
    );
  }
}

/** PEM certificates. Throws QZ2421 naming the file when it cannot be used. */
export async function authorities({ endpoint, caFile }: S3Place): Promise<string[]> {
  if (caFile === null) {
    return endpoint?.protocol === 'http:' ? [] : [...getCACertificates('default'), ...getCACertificates('system')];
  }
  try {
    const text = await readFile(await secretPlace(caFile), 'utf8');
    if (!text.includes('-----BEGIN CERTIFICATE-----')) throw Object.assign(new Error(), { code: 'no PEM certificate' });
    return [text];
  } catch (error) {
    throw configurationError(
      'QZ2421',
      `The certificate authority ${caFile} cannot be used (${errorCode(error)}).`,
      'Name a PEM file that this account may read with ca_file.',
      { cause: error },
    );
  }
}
