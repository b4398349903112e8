/** What the schema is made of: described keys, and values each with the "expected" sentence that a wrong one is answered with. */
import { isAbsolute } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { durationExamples, parseDurationMs, parseSizeBytes, sizeExamples } from './quantities.ts';

export interface KeyMeta {
  description: string;
  /** What `config example` writes; a key without one is an object whose own keys are written. */
  example?: string | number | Record<string, unknown>;
  /** The example stands as a comment: most files do without this key. */
  seldom?: boolean;
}

/** Describe a key: for help, for the example, and for error messages. */
export function key<T extends z.ZodType>(schema: T, description: string, example?: KeyMeta['example']): T {
  return schema.meta(example === undefined ? { description } : { description, example });
}

export function text(expected: string, pattern: RegExp) {
  return z.string({ error: expected }).regex(pattern, { error: expected });
}

export function oneOf<const T extends readonly [string, ...string[]]>(values: T) {
  return z.enum(values, { error: `one of ${values.join(', ')}` });
}

export function absolutePath() {
  const expected = 'an absolute path such as /var/lib/qazyna/log';
  return z.string({ error: expected }).refine((path) => isAbsolute(path) && !path.includes('\0'), { error: expected });
}

/** Any number of them; none when left out. */
export function paths() {
  const expected = 'a list of at most 64 absolute paths';
  const path = z
    .string({ error: expected })
    .refine((text) => isAbsolute(text) && !text.includes('\0'), { error: expected });
  return z.array(path, { error: expected }).max(64, { error: expected }).default([]);
}

export function durationMs(minMs: number) {
  const expected = `a duration with its unit (${durationExamples}), at least ${minMs < 1000 ? `${minMs}ms` : `${minMs / 1000}s`}`;
  return z.string({ error: expected }).transform((value, context) => {
    const ms = parseDurationMs(value);
    if (ms !== null && ms >= minMs) return ms;
    context.addIssue({ code: 'custom', message: expected });
    return z.NEVER;
  });
}

export function sizeBytes(minBytes: number) {
  const expected = `a size with its unit (${sizeExamples}), at least ${minBytes / 2 ** 20}MiB`;
  return z.string({ error: expected }).transform((value, context) => {
    const bytes = parseSizeBytes(value);
    if (bytes !== null && bytes >= minBytes) return bytes;
    context.addIssue({ code: 'custom', message: expected });
    return z.NEVER;
  });
}

/** `file:///srv/qazyna` → its folder; null for anything else. */
export function folderOfFileUrl(url: string): string | null {
  try {
    const parsed = new URL(url);
    if (parsed.protocol !== 'file:' || parsed.host !== '' || parsed.search !== '' || parsed.hash !== '') return null;
    const folder = fileURLToPath(parsed);
    return isAbsolute(folder) && folder !== '/' && !folder.includes('\0') ? folder : null;
  } catch {
    return null;
  }
}

/** `s3://bucket/prefix` → its parts; the prefix may be empty. Bucket names as AWS has them (S3 User Guide, "Bucket naming rules"). */
export function placeOfS3Url(url: string): { bucket: string; prefix: string } | null {
  const match = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/((?:[A-Za-z0-9._=-]+\/)*[A-Za-z0-9._=-]*))?$/.exec(url);
  return match?.[1] === undefined ? null : { bucket: match[1], prefix: (match[2] ?? '').replace(/\/$/, '') };
}

export function archiveUrl() {
  const expected = 'a URL such as file:///srv/qazyna or s3://bucket/prefix';
  return z.string({ error: expected }).refine((url) => folderOfFileUrl(url) !== null || placeOfS3Url(url) !== null, {
    error: expected,
  });
}

export function endpointUrl() {
  const expected = 'a URL such as https://s3.eu-north-1.amazonaws.com, without path and credentials';
  return z.string({ error: expected }).refine(
    (text) => {
      const url = URL.canParse(text) ? new URL(text) : null;
      if (url === null || !/^https?:$/.test(url.protocol)) return false;
      return url.username === '' && url.password === '' && url.pathname === '/' && url.search === '' && url.hash === '';
    },
    { error: expected },
  );
}

/** `https://host/grafana/` → the same without a slash at its end; null where it is none, or holds more than a place. */
export function placeOfHttpUrl(text: string): string | null {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol)) return null;
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') return null;
  return `${url.origin}${url.pathname.replace(/\/+$/, '')}`;
}

export const placeUrlExpected =
  'a URL such as http://127.0.0.1:3000 or https://host/grafana, without query and credentials';

/** As `endpointUrl`, of what may also be served under a path. */
export function placeUrl() {
  return z.string({ error: placeUrlExpected }).transform((text, context) => {
    const place = placeOfHttpUrl(text);
    if (place !== null) return place;
    context.addIssue({ code: 'custom', message: placeUrlExpected });
    return z.NEVER;
  });
}

export function flag() {
  return z.boolean({ error: 'true or false' });
}

export function wholeNumber(min: number, max: number) {
  const error = `a whole number from ${min} to ${max}`;
  return z.number({ error }).int({ error }).min(min, { error }).max(max, { error });
}

/** `127.0.0.1:9309`, `localhost:9309`, `[::1]:9309`. */
export function parseListen(value: string): { host: string; port: number } | null {
  const match = /^(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9.-]{1,253})):(\d{1,5})$/.exec(value);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  return host !== undefined && port <= 65_535 ? { host, port } : null;
}

export function listen() {
  const expected = 'an address and port such as "127.0.0.1:9309"';
  return z.string({ error: expected }).refine((value) => parseListen(value) !== null, { error: expected });
}

export function port() {
  const error = 'a port number from 1 to 65535';
  return z.number({ error }).int({ error }).min(1, { error }).max(65_535, { error });
}

export function brokers() {
  const error = 'a list of 1 to 64 brokers such as ["k1:9092", "k2:9092"]';
  const each = 'a host and port such as "k1:9092"';
  const broker = z.string({ error: each }).refine((value) => (parseListen(value)?.port ?? 0) > 0, { error: each });
  return z.array(broker, { error }).min(1, { error }).max(64, { error });
}

export function mapping<T extends z.ZodRawShape>(shape: T) {
  return z.strictObject(shape, {
    error: (issue) => (issue.code === 'invalid_type' ? 'a mapping of keys to values' : undefined),
  });
}
