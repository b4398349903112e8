/**
 * One signed S3 request written by hand (Signature Version 4, "Signature calculations for the Authorization header"): what
 * tests do beside the store: buckets, policies, objects of others. Not by the SDK, so that it checks the store's own way.
 */
import { createHash, createHmac } from 'node:crypto';
import { type IncomingHttpHeaders, request } from 'node:http';

export interface RawKeys {
  user: string;
  secret: string;
}

export interface RawRequest {
  endpoint: string;
  keys: RawKeys;
  method: string;
  /** With the bucket, not encoded: only characters that need none. */
  path: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: Buffer;
}

export interface RawAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

export async function rawRequest(wanted: RawRequest): Promise<RawAnswer> {
  const { endpoint, method, path, query = {}, body = Buffer.alloc(0) } = wanted;
  const url = new URL(endpoint);
  const search = Object.entries(query)
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`)
    .sort()
    .join('&');
  const sha256 = createHash('sha256').update(body).digest('hex');
  const at = `${new Date().toISOString().replace(/[-:]|\.\d+/g, '')}`;
  const headers: Record<string, string> = {
    ...wanted.headers,
    host: url.host,
    'x-amz-content-sha256': sha256,
    'x-amz-date': at,
    'content-length': String(body.length),
  };
  headers.authorization = authorization(wanted.keys, { method, path, search, headers, sha256, at });
  const to = { host: url.hostname, port: url.port, method, path: search === '' ? path : `${path}?${search}`, headers };
  return await new Promise((resolve, reject) => {
    const sent = request(to, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
      );
    });
    sent.once('error', reject);
    sent.end(body);
  });
}

interface Signed {
  method: string;
  path: string;
  search: string;
  headers: Record<string, string>;
  sha256: string;
  at: string;
}

function authorization({ user, secret }: RawKeys, { method, path, search, headers, sha256, at }: Signed): string {
  const names = Object.keys(headers).sort();
  const canonical = [
    method,
    path,
    search,
    ...names.map((name) => `${name}:${headers[name]}`),
    '',
    names.join(';'),
    sha256,
  ].join('\n');
  const scope = `${at.slice(0, 8)}/us-east-1/s3/aws4_request`;
  const text = ['AWS4-HMAC-SHA256', at, scope, createHash('sha256').update(canonical).digest('hex')].join('\n');
  const mac = (key: string | Buffer, value: string) => createHmac('sha256', key).update(value).digest();
  const key = ['us-east-1', 's3', 'aws4_request'].reduce(mac, mac(`AWS4${secret}`, at.slice(0, 8)));
  const signature = mac(key, text).toString('hex');
  return `AWS4-HMAC-SHA256 Credential=${user}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`;
}
