/**
 * caching_sha2_password, the server's side.
 *
 * scramble = SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce); the server answers `01 03` (fast path: the
 * scramble matched) or `01 04` (full path: send the password itself, NUL-terminated; over TLS in the clear, otherwise
 * XORed with the nonce and encrypted by RSA-OAEP with the key it asks for by `02`).
 * Wire facts: sql/auth/sha2_password.cc, sha2_password_common.cc and page_caching_sha2_authentication_exchanges.
 */
import {
  constants,
  createHash,
  generateKeyPair,
  type KeyObject,
  privateDecrypt,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto';
import { promisify } from 'node:util';
import type { Channel, ReadLimits } from './channel.ts';
import { malformed } from './packets.ts';

export const authPlugin = 'caching_sha2_password';
export const nonceBytes = 20;
const generateKeys = promisify(generateKeyPair);
const scrambleBytes = 32;
const maxAnswerBytes = 1024;
const fastAuthSuccess = Buffer.from([0x01, 0x03]);
const fullAuthNeeded = Buffer.from([0x01, 0x04]);
const publicKeyRequest = 0x02;

export interface Credentials {
  user: string;
  password: string;
}

/** 20 bytes without NUL (it ends strings here) and `$` (it separates fields of stored hashes). */
export function makeNonce(): Buffer {
  const nonce = randomBytes(nonceBytes);
  nonce.forEach((byte, index) => {
    const seven = byte & 0x7f;
    nonce[index] = seven === 0 || seven === 0x24 ? seven + 1 : seven;
  });
  return nonce;
}

export function scramble(password: string, nonce: Buffer): Buffer {
  const once = sha256(Buffer.from(password));
  return xor(once, sha256(Buffer.concat([sha256(once), nonce])));
}

export function isScrambleOf(answer: Buffer, password: string, nonce: Buffer): boolean {
  return answer.length === scrambleBytes && timingSafeEqual(answer, scramble(password, nonce));
}

/** Compared as hashes, so that neither length nor content shows in the time it takes. */
export function isSameText(a: string, b: string): boolean {
  return timingSafeEqual(sha256(Buffer.from(a)), sha256(Buffer.from(b)));
}

/** `FE plugin NUL nonce NUL`: asks the client to begin again with our plugin. */
export function authSwitchRequest(nonce: Buffer): Buffer {
  return Buffer.concat([Buffer.from([0xfe]), Buffer.from(`${authPlugin}\0`), nonce, Buffer.from([0])]);
}

export interface Attempt {
  plugin: string;
  user: string;
  answer: Buffer;
  nonce: Buffer;
}

/** Which account a client turned out to be; null: none of them; 'gone': it hung up. */
export type Judged = Credentials | null | 'gone';

/**
 * Judge one login after the handshake response. `full` asks for the password itself even when the scramble matches, as a
 * server does that has not cached the account yet. Every account is compared to its end, so that the time it takes tells
 * nothing of which user or password was right.
 */
export async function authenticate(
  channel: Channel,
  attempt: Attempt,
  accounts: readonly Credentials[],
  options: { full: boolean; deadlineMs: number },
): Promise<Judged> {
  const limits = { maxBytes: maxAnswerBytes, deadlineMs: options.deadlineMs };
  let { answer, nonce } = attempt;
  if (attempt.plugin !== authPlugin) {
    nonce = makeNonce();
    await channel.send(authSwitchRequest(nonce));
    const again = await channel.read(limits);
    if (again === null) return 'gone';
    answer = again;
  }
  if (!options.full) {
    const account = theOne(accounts, attempt.user, ({ password }) => isScrambleOf(answer, password, nonce));
    if (account !== null) await channel.send(fastAuthSuccess);
    return account;
  }
  const given = await askForPassword(channel, nonce, limits);
  if (given === null) return 'gone';
  return theOne(accounts, attempt.user, ({ password }) => isSameText(given, password));
}

function theOne(
  accounts: readonly Credentials[],
  user: string,
  isPassword: (account: Credentials) => boolean,
): Credentials | null {
  const judged = accounts.map((account) => [isPassword(account), isSameText(user, account.user)] as const);
  return accounts.find((_, index) => judged[index]?.every(Boolean)) ?? null;
}

async function askForPassword(channel: Channel, nonce: Buffer, limits: ReadLimits): Promise<string | null> {
  await channel.send(fullAuthNeeded);
  let answer = await channel.read(limits);
  if (answer === null) return null;
  if (!channel.isEncrypted) {
    if (answer.length !== 1 || answer[0] !== publicKeyRequest) throw malformed('a password without asking for our key');
    const { privateKey, publicPem } = await rsaKey();
    await channel.send(Buffer.concat([Buffer.from([0x01]), publicPem]));
    const encrypted = await channel.read(limits);
    if (encrypted === null) return null;
    answer = decrypt(privateKey, encrypted, nonce);
  }
  const end = answer.indexOf(0);
  return answer.toString('utf8', 0, end < 0 ? answer.length : end);
}

function decrypt(privateKey: KeyObject, encrypted: Buffer, nonce: Buffer): Buffer {
  try {
    return xor(privateDecrypt({ key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING }, encrypted), nonce);
  } catch {
    throw malformed('a password that our key does not open');
  }
}

interface RsaKey {
  privateKey: KeyObject;
  publicPem: Buffer;
}

let madeKey: Promise<RsaKey> | null = null;

/** Made at first need, most clients never ask; in a thread, as it takes long enough for others to wait. */
function rsaKey(): Promise<RsaKey> {
  madeKey ??= generateKeys('rsa', { modulusLength: 2048 }).then(({ privateKey, publicKey }) => ({
    privateKey,
    publicPem: Buffer.from(publicKey.export({ type: 'spki', format: 'pem' })),
  }));
  return madeKey;
}

function sha256(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest();
}

/** The shorter operand repeats, as `xor_string` of sql-common/client_authentication.cc does. */
function xor(bytes: Buffer, pattern: Buffer): Buffer {
  const result = Buffer.allocUnsafe(bytes.length);
  for (let index = 0; index < bytes.length; index++) {
    result[index] = (bytes[index] ?? 0) ^ (pattern[index % pattern.length] ?? 0);
  }
  return result;
}
