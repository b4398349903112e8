/** What an event's type says about where it may stand. */
import { eventTypes } from '../../core/binlog/events.ts';

/** `role` of an event type in the hot loop; 0 is an ordinary event, which only a transaction may hold. */
export const roles = { ordinary: 0, control: 1, alone: 2, aside: 3 } as const;
export const roleOf = new Uint8Array(256);
for (const type of [eventTypes.gtid, eventTypes.gtidTagged, eventTypes.anonymousGtid]) roleOf[type] = roles.control;
for (const type of [eventTypes.formatDescription, eventTypes.previousGtids, eventTypes.rotate, eventTypes.stop])
  roleOf[type] = roles.control;
for (const type of [eventTypes.incident, eventTypes.ignorable]) roleOf[type] = roles.alone;
for (const type of [eventTypes.heartbeat, eventTypes.heartbeatV2]) roleOf[type] = roles.aside;
