/**
 * The authorities that this machine trusts, as Java reads them. A Java runtime that is only unpacked has none; its own keytool
 * takes one certificate a run, a second each.
 */
import { createHash, X509Certificate } from 'node:crypto';

const magic = 0xfeedfeed;
const formatVersion = 2;
const trustedCertificateTag = 2;
/** What the store's digest begins with, after the password. */
const whitener = 'Mighty Aphrodite';

/**
 * A key store of type JKS with every certificate in `pem`. Big-endian: magic, version, count, then for each tag, alias, time
 * in ms, type, length, DER; at last SHA-1 over password (UTF-16), whitener and all of that (OpenJDK,
 * sun/security/provider/JavaKeyStore.java: engineStore, getPreKeyedHash).
 */
export function trustStoreOf(pem: string, password: string): { bytes: Buffer; count: number } {
  const certificates = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  const parts = [numbers(magic, formatVersion, certificates.length)];
  for (const [index, certificate] of certificates.entries()) {
    const { raw } = new X509Certificate(certificate);
    parts.push(numbers(trustedCertificateTag), text(`authority-${index}`), Buffer.alloc(8));
    parts.push(text('X.509'), numbers(raw.length), raw);
  }
  const body = Buffer.concat(parts);
  const secret = Buffer.from(password, 'utf16le').swap16();
  const digest = createHash('sha1').update(secret).update(whitener).update(body).digest();
  return { bytes: Buffer.concat([body, digest]), count: certificates.length };
}

function numbers(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, 4 * index);
  return bytes;
}

/** As java.io.DataOutput.writeUTF does, for ASCII. */
function text(value: string): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(value.length);
  return Buffer.concat([length, Buffer.from(value, 'latin1')]);
}
