/**
 * The envelope before every binary object of an archive (FORMAT.md, "Object envelope"). It reserves room for encryption
 * from the first version on: a reader of today refuses what it cannot open, by name.
 */
import { integrityError } from '../errors/error.ts';

export const objectMagic = 'QZO1';
/** Bytes before the content while nothing is encrypted. */
export const envelopeBytes = 16;
const envelopeVersion = 1;
const plain = 0;

export const objectTypes = { segment: 1, segmentIndex: 2, pack: 3, snapshotManifest: 4, compacted: 5 } as const;
export type ObjectType = keyof typeof objectTypes;

/** Body parts of a whole object: the envelope, then the content. */
export function sealObject(type: ObjectType, content: readonly Uint8Array[]): Uint8Array[] {
  const envelope = Buffer.alloc(envelopeBytes);
  envelope.write(objectMagic, 'latin1');
  envelope.writeUInt8(envelopeVersion, 4);
  envelope.writeUInt8(objectTypes[type], 5);
  envelope.writeUInt8(plain, 6);
  return [envelope, ...content];
}

/**
 * The content behind the envelope; `bytes` may end anywhere behind it. Throws QZ3402 naming `name` when it is not an object
 * of that type, QZ3403 when it needs something this version does not have.
 */
export function openObject(bytes: Buffer, type: ObjectType, name: string): Buffer {
  const damaged = (reason: string) =>
    integrityError('QZ3402', `Object ${name} is damaged: ${reason}.`, 'Use another archive (--from).', {
      details: { object: name },
    });
  if (bytes.length < envelopeBytes) throw damaged(`it ends after ${bytes.length} bytes`);
  if (bytes.toString('latin1', 0, 4) !== objectMagic) throw damaged('it does not begin as an object of this program');
  const [version = 0, kind = 0, encryption = 0, reserved = 0] = bytes.subarray(4, 8);
  if (version > envelopeVersion || encryption !== plain) {
    throw integrityError(
      'QZ3403',
      `Object ${name} has envelope version ${version} and encryption ${encryption}, which this version cannot open.`,
      'Use the version of qazyna that wrote the archive, or a newer one.',
      { details: { object: name } },
    );
  }
  if (version !== envelopeVersion || reserved !== 0) throw damaged('its envelope is out of bounds');
  if (kind !== objectTypes[type]) throw damaged(`it is of type ${kind}, not ${objectTypes[type]} (${type})`);
  if (bytes.readUInt32LE(8) !== 0 || bytes.readUInt32LE(12) !== 0) throw damaged('its envelope is out of bounds');
  return bytes.subarray(envelopeBytes);
}
