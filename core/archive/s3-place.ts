/**
 * An archive's place in S3 as one URL, so that it passes through the program as one string:
 * `s3://bucket/prefix?endpoint=https%3A%2F%2Fs3.example.org&region=eu-north-1&path_style=true&checksums=when_required
 * &credentials_file=/etc/qazyna/s3.credentials&ca_file=/etc/qazyna/s3-ca.pem`. Every part of the query may be left out.
 */
import { isIP } from 'node:net';
import { isAbsolute } from 'node:path';
import { configurationError } from '../errors/error.ts';
import { checkKey } from './key.ts';
import { errorText } from './store-error.ts';

export interface S3Place {
  bucket: string;
  /** '' or a path that ends in `/`; stands before every key. */
  prefix: string;
  /** Null: AWS itself, by its region. */
  endpoint: URL | null;
  /** Null: what the environment or the AWS profile says; with an endpoint of one's own `us-east-1`. */
  region: string | null;
  /** The bucket in the path, not in the host name. */
  pathStyle: boolean;
  /** `when_required` sends no checksum header, for services that refuse them; the signed payload is verified all the same. */
  checksums: 'when_supported' | 'when_required';
  /** Null: environment, AWS profile, instance role. */
  credentialsFile: string | null;
  /** Null: the authorities of the system and of Node. */
  caFile: string | null;
  /** What is put once is locked for so long, in a bucket that can; null: nothing is. */
  lock: ObjectLock | null;
  /** For messages: bucket, prefix and host; never where credentials are. */
  name: string;
}

export interface ObjectLock {
  mode: 'governance' | 'compliance';
  forMs: number;
}

const keys = ['endpoint', 'region', 'path_style', 'checksums', 'credentials_file', 'ca_file', 'object_lock'];
const example = 's3://bucket/prefix?endpoint=https%3A%2F%2Fs3.example.org&region=eu-north-1';
/** Keys have at most 512 bytes here, and 1,024 in S3 (S3 User Guide, "Naming Amazon S3 objects"). */
const prefixBytesMax = 400;

/** Throws QZ2407 with the one thing that is wrong; never repeats a user name or password from the URL. */
export function parseS3Place(url: URL): S3Place {
  const refuse = (why: string) =>
    configurationError(
      'QZ2407',
      `The archive URL s3://${url.host}${url.pathname.slice(0, 100)} is not understood: ${why}.`,
      `Write it as ${example}; known behind the ? are ${keys.join(', ')}.`,
    );
  if (url.username !== '' || url.password !== '') {
    throw refuse('credentials do not belong into it; name a file with credentials_file=');
  }
  if (url.port !== '') throw refuse('a port belongs to the endpoint, not to the bucket');
  if (url.hash !== '') throw refuse('it has a # part');
  const bucket = url.hostname;
  if (bucket === '') throw refuse('it names no bucket');
  // S3 User Guide, "General purpose bucket naming rules"; upper case and _ are those of old buckets.
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/.test(bucket)) throw refuse('its bucket is no bucket name');
  const prefix = url.pathname.replace(/^\/+|\/+$/g, '');
  if (prefix !== '') {
    try {
      checkKey(prefix);
    } catch {
      throw refuse('its prefix has other characters than A-Z a-z 0-9 . _ = - / or a part that begins with a dot');
    }
    if (prefix.length > prefixBytesMax) throw refuse(`its prefix is longer than ${prefixBytesMax} bytes`);
  }
  const endpoint = endpointOf(url, refuse);
  return {
    bucket,
    prefix: prefix === '' ? '' : `${prefix}/`,
    endpoint,
    ...settingsOf(url, endpoint, refuse),
    name: `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}${endpoint === null ? '' : ` at ${endpoint.host}`}`,
  };
}

function endpointOf(url: URL, refuse: (why: string) => Error): URL | null {
  const text = url.searchParams.get('endpoint');
  if (text === null) return null;
  let endpoint: URL;
  try {
    endpoint = new URL(text);
  } catch (error) {
    throw refuse(`its endpoint is no URL (${errorText(error)}); write endpoint=https%3A%2F%2FHOST`);
  }
  if (!/^https?:$/.test(endpoint.protocol)) throw refuse('its endpoint begins neither with https:// nor with http://');
  if (endpoint.username !== '' || endpoint.password !== '') throw refuse('its endpoint holds credentials');
  if (endpoint.pathname !== '/' || endpoint.search !== '' || endpoint.hash !== '') {
    throw refuse('its endpoint has more than a host and a port');
  }
  return endpoint;
}

function settingsOf(url: URL, endpoint: URL | null, refuse: (why: string) => Error) {
  for (const [name] of url.searchParams) {
    if (!keys.includes(name)) throw refuse(`it has the unknown part ${JSON.stringify(name.slice(0, 40))}`);
    if (url.searchParams.getAll(name).length > 1) throw refuse(`${name} stands in it twice`);
  }
  const oneOf = <T extends string>(name: string, values: readonly T[]): T | null => {
    const given = url.searchParams.get(name);
    const found = values.find((value) => value === given);
    if (given !== null && found === undefined) throw refuse(`${name} must be ${values.join(' or ')}`);
    return found ?? null;
  };
  const file = (name: string): string | null => {
    const path = url.searchParams.get(name);
    if (path !== null && (!isAbsolute(path) || path.includes('\0'))) throw refuse(`${name} must be an absolute path`);
    return path;
  };
  const region = url.searchParams.get('region');
  if (region !== null && !/^[a-z0-9-]{1,64}$/.test(region)) throw refuse('region must be a name such as eu-north-1');
  const lock = lockOf(url.searchParams.get('object_lock'));
  if (lock === undefined)
    throw refuse('object_lock must be governance or compliance and a time, as in compliance-2592000s');
  const pathStyle = oneOf('path_style', ['true', 'false']);
  return {
    region,
    pathStyle: pathStyle === null ? endpoint !== null && !isAws(endpoint.hostname) : pathStyle === 'true',
    checksums: oneOf('checksums', ['when_supported', 'when_required']) ?? ('when_supported' as const),
    credentialsFile: file('credentials_file'),
    caFile: file('ca_file'),
    lock,
  };
}

function lockOf(text: string | null): ObjectLock | null | undefined {
  if (text === null) return null;
  const match = /^(governance|compliance)-(\d{1,10})s$/.exec(text);
  if (match === null) return undefined;
  return { mode: match[1] === 'compliance' ? 'compliance' : 'governance', forMs: Number(match[2]) * 1000 };
}

function isAws(host: string): boolean {
  return /(^|\.)amazonaws\.com(\.cn)?$/.test(host);
}

/** Whether what is sent to this endpoint stays on this host or is encrypted on its way. */
export function isPrivateWay(endpoint: URL | null): boolean {
  if (endpoint === null || endpoint.protocol === 'https:') return true;
  const host = endpoint.hostname.replace(/^\[|\]$/g, '');
  if (isIP(host) === 4) return host.startsWith('127.');
  return host === '::1' || host === 'localhost' || host.endsWith('.localhost');
}
