/**
 * A self-signed certificate made in memory (Node signs, but does not write X.509): version 3, ECDSA P-256 with SHA-256,
 * valid for `days`, for localhost and the loopback addresses. DER by hand: RFC 5280 section 4.1, X.690 section 8.
 */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';

export interface CertificateAndKey {
  certPem: string;
  keyPem: string;
}

const tag = {
  integer: 0x02,
  bits: 0x03,
  octets: 0x04,
  oid: 0x06,
  utf8: 0x0c,
  utcTime: 0x17,
  sequence: 0x30,
  set: 0x31,
};
const ecdsaWithSha256 = '06082a8648ce3d040302';
const commonName = '0603550403';
const subjectAltName = '0603551d11';

export function selfSignedCertificate(name: string, days: number): CertificateAndKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const algorithm = der(tag.sequence, hex(ecdsaWithSha256));
  const subject = der(tag.sequence, der(tag.set, der(tag.sequence, hex(commonName), der(tag.utf8, Buffer.from(name)))));
  const now = Date.now();
  const validity = der(tag.sequence, time(now - 86_400_000), time(now + days * 86_400_000));
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const names = der(
    tag.sequence,
    der(0x82, Buffer.from('localhost')),
    der(0x87, Buffer.from([127, 0, 0, 1])),
    der(0x87, Buffer.from([...new Array<number>(15).fill(0), 1])),
  );
  const extensions = der(0xa3, der(tag.sequence, der(tag.sequence, hex(subjectAltName), der(tag.octets, names))));
  const body = der(
    tag.sequence,
    der(0xa0, der(tag.integer, Buffer.from([2]))),
    der(tag.integer, serial),
    algorithm,
    subject,
    validity,
    subject,
    publicKey.export({ type: 'spki', format: 'der' }),
    extensions,
  );
  const signature = sign('sha256', body, privateKey);
  const certificate = der(tag.sequence, body, algorithm, der(tag.bits, Buffer.from([0]), signature));
  return { certPem: pem(certificate), keyPem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString() };
}

function der(kind: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const length = body.length;
  let head: number[];
  if (length < 0x80) head = [kind, length];
  else if (length < 0x100) head = [kind, 0x81, length];
  else head = [kind, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), body]);
}

/** Two-digit years, as RFC 5280 wants them until 2049. */
function time(at: number): Buffer {
  return der(tag.utcTime, Buffer.from(`${new Date(at).toISOString().slice(2, 19).replace(/[-:T]/g, '')}Z`));
}

function hex(text: string): Buffer {
  return Buffer.from(text, 'hex');
}

function pem(bytes: Buffer): string {
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}
