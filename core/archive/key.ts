/** Object keys: checked before any store is touched, so that a hostile or damaged name can never leave the archive. */
import { configurationError } from '../errors/error.ts';

const keyBytesMax = 512;
const part = /^[A-Za-z0-9_=-][A-Za-z0-9._=-]*$/;

/** Whether `key` is `/`-separated parts of [A-Za-z0-9._=-], none empty or beginning with a dot, ≤ 512 bytes. */
export function isKey(key: string): boolean {
  return key.length <= keyBytesMax && key.split('/').every((name) => part.test(name));
}

/** Throws QZ2403 unless it is a key. */
export function checkKey(key: string): void {
  if (isKey(key)) return;
  throw configurationError(
    'QZ2403',
    `The object name ${JSON.stringify(key.slice(0, 80))} is not allowed in an archive.`,
    'Names are made of A-Z a-z 0-9 . _ = - in parts separated by /, at most 512 bytes, no part beginning with a dot.',
    { details: { key: key.slice(0, keyBytesMax) } },
  );
}

/** The same for a listing's prefix, which ends in `/`; '' means the whole store. */
export function checkPrefix(prefix: string): void {
  if (prefix === '') return;
  checkKey(prefix.endsWith('/') ? prefix.slice(0, -1) : `${prefix}/`);
}
