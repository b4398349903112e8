/**
 * The quick way over a stream: most events of most transactions are as they always are, whole in one chunk, and cost here a few
 * dozen nanoseconds each. What is otherwise in the least stays where it is for the careful way (assembler.ts), which looks at it
 * anew and decides. Both leave the same behind; a test holds them against each other on random streams.
 */
import { eventFlags, eventTypes, headerBytes, trailerBytes } from '../../core/binlog/events.ts';
import type { PacketRun } from '../../core/mysql/packets.ts';
import type { Gathering } from './gathering.ts';
import { roleOf, roles } from './roles.ts';

const packetHeaderBytes = 4;
/** A packet of this length goes on in the next one. */
const splitBytes = 0xffffff;
/** Events are copied in words of this size; the last word may reach beyond the event, into bytes that mean nothing yet. */
const wordBytes = 8;
/** From here on a call to the native copy costs less than copying here. */
const nativeCopyFromBytes = 384;
/** The two bytes behind the 0x00 with semi-sync: 0xEF, and no reply wanted. */
const noReplyWanted = 0x00ef;
const int32Max = 2 ** 31 - 1;

/** Takes what it can of `run` into `gathering`. The stream is inside a file that it has named, behind what was captured before. */
export function takeOrdinary(run: PacketRun, gathering: Gathering): void {
  const { chunk, view, prefixBytes } = run;
  const { slab, view: slabView, gtid, sound, ended } = gathering;
  const trailer = trailerBytes(gathering.checksum);
  const { position } = gathering;
  // Offsets from here on are relative to `position`, and so small integers.
  const positionBits = position | 0;
  const before = gathering.openEnd;
  let left = before > 0 ? Math.min(before - position, int32Max) : 0;
  let openedAt = -1;
  let done = 0;
  let { at, sequence } = run;
  let { to } = gathering;
  const atMost = chunk.length - wordBytes;
  const toMost = slab.length - wordBytes;
  const prefix = packetHeaderBytes + prefixBytes;
  while (at + prefix + headerBytes <= atMost) {
    const head = view.getUint32(at, true);
    const length = head & splitBytes;
    const event = at + prefix;
    const size = length - prefixBytes;
    const next = event + size;
    const isWhole = next <= atMost && to + size <= toMost && size >= headerBytes && length !== splitBytes;
    if (!isWhole || head >>> 24 !== sequence || view.getUint8(at + packetHeaderBytes) !== 0) break;
    if (prefixBytes > 1 && view.getUint16(at + packetHeaderBytes + 1, true) !== noReplyWanted) break;
    if (
      view.getUint32(event + 9, true) !== size ||
      view.getInt32(event + 13, true) !== ((positionBits + done + size) | 0)
    )
      break;
    if ((view.getUint8(event + 17) & eventFlags.artificial) !== 0) break;
    const type = view.getUint8(event + 4);
    if (left > 0) {
      if (size > left || roleOf[type] !== roles.ordinary) break;
    } else {
      if (type !== eventTypes.gtid || !gtid.readOrdinary(view, event, next - trailer) || gtid.length < size) break;
      left = gtid.length;
      openedAt = done;
    }
    if (size >= nativeCopyFromBytes) chunk.copy(slab, to, event, next);
    else
      for (let i = 0; i < size; i += wordBytes) slabView.setBigInt64(to + i, view.getBigInt64(event + i, true), true);
    to += size;
    done += size;
    left -= size;
    sound.add(size);
    if (left === 0) ended.add(gtid.key, gtid.number, gtid.commitMicros);
    at = next;
    sequence = (sequence + 1) & 0xff;
  }
  run.at = at;
  run.sequence = sequence;
  gathering.to = to;
  gathering.position = position + done;
  if (left === 0) gathering.openEnd = 0;
  else if (openedAt >= 0) {
    gathering.openStart = position + openedAt;
    gathering.openEnd = gathering.openStart + gtid.length;
  }
}
