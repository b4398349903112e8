#!/usr/bin/env python3
"""Restores a qazyna archive without qazyna: the snapshot's files, the binlog behind it, and how to replay it.

Needs Python 3.8, for an encrypted archive the package `cryptography`, and one of: Python 3.14, the package `zstandard`, the
program zstd. The bytes are described in FORMAT.md; README.md beside this file says how to use it.
"""
import argparse
import datetime
import functools
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import zlib

HEAD_BYTES = 64  # before a sealed object's chunks
TAG_BYTES = 16
CHUNK_BYTES = 256 * 1024  # of a snapshot's files
TYPES = {'segment': 1, 'pack': 3, 'snapshot': 4, 'compacted': 5}
EVENTS, PROMOTION, TIMELINE = 2, 4, 5
PACKS_IN_MEMORY = 8
LATEST = 2 ** 62


class Trouble(Exception):
    """Something that a person has to decide about, in one sentence."""


class Damage(Trouble):
    """An object is not what was put there. What does not need it can be restored all the same."""


def note(text):
    print(text, file=sys.stderr, flush=True)


def hkdf(secret, info, length):
    """RFC 5869 with SHA-256 and no salt, for at most 32 bytes."""
    key = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(key, info + b'\x01', hashlib.sha256).digest()[:length]


def unzstd(frame, plain_bytes):
    try:
        from compression import zstd  # Python 3.14
        return zstd.decompress(frame)
    except ImportError:
        pass
    try:
        import zstandard
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=max(1, plain_bytes))
    except ImportError:
        if shutil.which('zstd') is None:
            raise Trouble('Neither the package zstandard nor the program zstd is here: install one of them.')
        return subprocess.run(['zstd', '-dcq'], input=frame, stdout=subprocess.PIPE, check=True).stdout


# ---------------------------------------------------------------------------------------------------- objects


class Archive:
    """A folder of objects. What comes out of it is what was put in, or Trouble."""

    def __init__(self, root, key_files):
        self.root = root
        self.keys = dict(self.key_of(path) for path in key_files)
        try:
            about = json.loads(self.raw('archive.json'))
        except (FileNotFoundError, ValueError):
            raise Trouble(f'{root} holds no readable archive.json: it is not an archive, or not all of it.')
        self.id = about['id']
        self.encrypted = about['encryption'] != 'none'
        if about['format'] != 1 or about['encryption'] not in ('none', 'aes-256-gcm'):
            raise Trouble('This archive is newer than this script.')
        if not self.encrypted:
            self.chunk_key = hkdf(self.id.encode(), b'qazyna chunk key 1', 32)
            return
        made = bytes.fromhex(about['chunkKey'])
        records = [('archive.json', made)]
        records += [(f'keys/{one}', self.raw(f'keys/{one}')) for one in self.keys if one in self.names('keys')]
        for name, sealed in records:
            if sealed[16:24].hex() in self.keys:
                self.chunk_key = self.unseal(name, sealed)
                return
        wanted = sorted({made[16:24].hex(), *self.names('keys')})
        raise Trouble(f'It is encrypted under the key {" or ".join(wanted)}; at hand (--key): {", ".join(self.keys) or "none"}.')

    @staticmethod
    def key_of(path):
        with open(path, 'rb') as file:
            key = file.read(33)
        if len(key) != 32:
            raise Trouble(f'{path} is no key: a key has exactly 32 bytes.')
        return hkdf(key, b'qazyna key id 1', 8).hex(), hkdf(key, b'qazyna key wrap 1', 32)

    def names(self, folder):
        """What is directly below a folder, in order; nothing that begins with a dot."""
        try:
            return sorted(name for name in os.listdir(os.path.join(self.root, folder)) if not name.startswith('.'))
        except FileNotFoundError:
            return []

    def raw(self, name, upto=-1):
        file = os.open(os.path.join(self.root, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(file, 'rb') as opened:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise Damage(f'{name} is no plain file.')
            return opened.read(upto)

    def content(self, name, kind, upto=None):
        """What stands behind the envelope; with `upto` at least its first bytes."""
        if upto is None:
            data = self.raw(name)
        else:
            upto += 16
            chunks = max(0, -(-(upto - 4096) // 65536))
            data = self.raw(name, HEAD_BYTES + 4096 + TAG_BYTES + chunks * (65536 + TAG_BYTES) + 1)
        if self.encrypted:
            data = self.unseal(name, data, upto)
        if data[:5] != b'QZO1\x01' or data[5] != TYPES[kind] or any(data[6:16]):
            raise Damage(f'{name} is damaged: it does not begin as a {kind}.')
        return data[16:]

    def unseal(self, name, data, upto=None):
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

        if data[:16] != b'QZO1\x01\x00\x01\x00' + struct.pack('<II', 48, 0):
            raise Damage(f'{name} is damaged: it does not begin as an encrypted object.')
        key_id = data[16:24].hex()
        if key_id not in self.keys:
            raise Trouble(f'{name} was encrypted under the key {key_id}, which is not at hand (--key).')
        bound = data[:HEAD_BYTES] + bytes.fromhex(self.id) + name.encode()
        plain, at, index = [], HEAD_BYTES, 0
        try:
            cipher = AESGCM(aes_key_unwrap(self.keys[key_id], data[24:HEAD_BYTES]))
            while True:
                end = at + (65536 if index else 4096) + TAG_BYTES
                is_last = len(data) <= end
                nonce = struct.pack('<IB7x', index, is_last)
                plain.append(cipher.decrypt(nonce, data[at:end], bound))
                at, index = end, index + 1
                if is_last or (upto is not None and sum(map(len, plain)) >= upto):
                    return b''.join(plain)
        except (InvalidTag, InvalidUnwrap, ValueError):
            raise Damage(f'{name} is damaged, or was put there by somebody without the key (chunk {index}).')


# ---------------------------------------------------------------------------------------------------- GTID sets


class GtidSet:
    """uuid or uuid:tag -> intervals [first, behind the last], in order and not touching."""

    def __init__(self):
        self.intervals = {}

    @classmethod
    def parse(cls, text):
        result = cls()
        for one in re.sub(r'\s', '', text).split(','):
            uuid, *parts = one.split(':')
            key = uuid
            for part in parts:
                if not part[0].isdigit():
                    key = f'{uuid}:{part}'
                    continue
                first, _, last = part.partition('-')
                result.add(key, int(first), int(last or first))
        return result

    @classmethod
    def decode(cls, data):
        """As in a Previous_gtids event (Gtid_set::encode in MySQL's sql/rpl_gtid_set.cc)."""
        result = cls()
        tagged = data[7] == 1
        count = int.from_bytes(data[1:7], 'little') if tagged else int.from_bytes(data[:8], 'little')
        at = 8
        for _ in range(count):
            digits = data[at:at + 16].hex()
            key = '-'.join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            at += 16
            if tagged:
                length = data[at] >> 1
                key += f':{data[at + 1:at + 1 + length].decode()}' if length else ''
                at += 1 + length
            (intervals,) = struct.unpack_from('<Q', data, at)
            at += 8
            for _ in range(intervals):
                first, end = struct.unpack_from('<QQ', data, at)
                result.add(key, first, end - 1)
                at += 16
        return result

    def add(self, key, first, last=None):
        """Numbers come in order: what does not join the last interval is put where it belongs, and all are joined anew."""
        rows = self.intervals.setdefault(key, [])
        end = (first if last is None else last) + 1
        if rows and rows[-1][1] == first:
            rows[-1][1] = end
            return
        rows.append([first, end])
        if len(rows) == 1 or rows[-2][1] < first:
            return
        joined = []
        for start, end in sorted(rows):
            if joined and start <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], end)
            else:
                joined.append([start, end])
        self.intervals[key] = joined

    def union(self, other):
        result = GtidSet()
        for each in (self, other):
            for key, rows in each.intervals.items():
                for first, end in rows:
                    result.add(key, first, end - 1)
        return result

    def intersect(self, other):
        result = GtidSet()
        for key, rows in self.intervals.items():
            for first, end in rows:
                for low, high in other.intervals.get(key, []):
                    if max(first, low) < min(end, high):
                        result.add(key, max(first, low), min(end, high) - 1)
        return result

    def contains(self, other):
        def within(first, end, rows):
            return any(low <= first and end <= high for low, high in rows)
        return all(within(*row, self.intervals.get(key, [])) for key, rows in other.intervals.items() for row in rows)

    def __str__(self):
        def text(key, rows):
            return key + ''.join(f':{a}' if b == a + 1 else f':{a}-{b - 1}' for a, b in rows)
        return ','.join(text(key, rows) for key, rows in sorted(self.intervals.items()))


# ---------------------------------------------------------------------------------------------------- history


class Segment:
    """A header of the archive's chain (FORMAT.md, "Segment")."""

    FIXED = struct.Struct('<4sHBBII64x11Q8xIII4x32s32s32s')

    def __init__(self, archive, name):
        self.name = name
        # Several segments made into one have a few bytes before the same header (FORMAT.md, "Compacted segments").
        self.object = 'compacted' if '/compacted/' in name else 'segment'
        self.offset = 48 if self.object == 'compacted' else 0
        data = archive.content(name, self.object, 4096)
        if self.offset and data[:6] != b'QZCP\x01\x00':
            raise Damage(f'{name} is damaged: it does not begin as compacted segments.')
        (size,) = struct.unpack_from('<I', data, self.offset + 8)
        if self.offset + size > len(data):
            data = archive.content(name, self.object, self.offset + size)
        header = data[self.offset:self.offset + size]
        if len(header) < size or zlib.crc32(header[:-4]) != int.from_bytes(header[-4:], 'little'):
            raise Damage(f'{name} is damaged: its header fails its CRC-32.')
        (magic, version, self.kind, _, self.header_bytes, self.generation, self.sequence, _, _, self.start, self.end,
         self.boundary, self.transaction_start, self.first_commit, self.last_commit, self.chain_last_commit,
         self.complete_through, self.transactions, self.raw_bytes, self.stored_bytes, self.raw_sha256, self.previous,
         _) = self.FIXED.unpack_from(header)
        if (magic, version) != (b'QZSG', 1):
            raise Damage(f'{name} is of a version that this script does not know.')
        at, texts = self.FIXED.size, []
        for width in (2, 2, 4, 4):
            length = int.from_bytes(header[at:at + width], 'little')
            texts.append(header[at + width:at + width + length])
            at += width + length
        self.file = texts[0].decode()
        self.gtids_before, self.gtids_added = GtidSet.decode(texts[2]), GtidSet.decode(texts[3])
        # What the next segment carries: of compacted ones the hash of the last one's own header.
        self.sha256 = data[16:48] if self.offset else hashlib.sha256(header).digest()

    def body(self, archive):
        data = archive.content(self.name, self.object)[self.offset + self.header_bytes:]
        raw = data if self.stored_bytes == self.raw_bytes else unzstd(data, self.raw_bytes)
        if len(data) != self.stored_bytes or hashlib.sha256(raw).digest() != self.raw_sha256:
            raise Trouble(f'{self.name} is damaged: its body does not fit its SHA-256.')
        return raw


class BinlogFile:
    def __init__(self, segment, gtids):
        self.generation, self.name = segment.generation, segment.file
        self.segments, self.end = [], 4
        self.gtids_before, self.gtids = segment.gtids_before, gtids
        self.limit = None  # where the next timeline forked off inside it: what that one has of it


class Run:
    """Files that can be replayed one after the other."""

    def __init__(self, gtids):
        self.files, self.gtids_before, self.gtids, self.through, self.gap = [], gtids, gtids, 0, None


def chain_objects(archive, source):
    """(first sequence, last sequence, name) of every object of the chain, in order."""
    found = []
    for name in archive.names(f'sources/{source}/compacted'):
        if re.fullmatch(r'\d{20}-\d{20}', name):
            found.append((int(name[:20]), int(name[21:]), f'sources/{source}/compacted/{name}'))
    for name in archive.names(f'sources/{source}/chain'):
        if re.fullmatch(r'\d{20}', name):
            found.append((int(name), int(name), f'sources/{source}/chain/{name}'))
    # While segments are made into larger objects, both are there: of two that begin alike, the one that covers more.
    found.sort(key=lambda one: (one[0], -one[1]))
    chosen, due = [], 0
    for one in found:
        if one[0] >= due:
            chosen.append(one)
            due = one[1] + 1
    return chosen


def is_kept(archive, source, first, last):
    """Whether retention keeps any of these; what it does not keep was deleted on purpose."""
    try:
        begin = json.loads(archive.raw(f'sources/{source}/begin'))
        return last >= begin['sequence'] or any(a <= last and b >= first for a, b in begin['kept'])
    except (FileNotFoundError, ValueError, KeyError):
        return True


def read_runs(archive, source):
    """The ancestry of the newest timeline, broken by whatever is missing; and where each timeline forked off."""
    runs, forks, before, due = [], {}, None, None
    run = file = None
    for first, last, name in chain_objects(archive, source):
        problem = None
        if due is not None and due != first:
            gone = 'are missing' if is_kept(archive, source, due, first - 1) else 'were deleted by retention'
            problem = f'segments {due} to {first - 1} {gone}'
        due = last + 1
        try:
            segment = Segment(archive, name)
        except Damage as damage:
            problem, segment = str(damage).rstrip('.'), None
        if segment and problem is None and before and segment.previous != before.sha256:
            problem = f'{name} was not written after the segment before it'
        if problem:
            note(f'WARNING: {problem}: what it held, and what follows up to the next binlog file, cannot be replayed.')
            if run:
                run.gap = problem
            run = file = None
        before = segment
        if segment is None:
            continue
        if segment.kind in (PROMOTION, TIMELINE):
            forks[segment.generation] = segment.gtids_before
            if run:
                cut_at_fork(run, segment.gtids_before)
                run = run if run.files else None
            file = None
        elif segment.kind == EVENTS:
            if segment.start == 4:
                if run is None or not run.gtids.contains(segment.gtids_before):
                    run = Run(segment.gtids_before)
                    runs.append(run)
                file = BinlogFile(segment, run.gtids)
                run.files.append(file)
            if file:
                file.segments.append(segment)
                file.end = min(segment.transaction_start, segment.boundary)
                file.gtids = run.gtids = run.gtids.union(segment.gtids_added)
        if run:
            run.through = max(run.through, segment.chain_last_commit, segment.complete_through)
    return [run for run in runs if run.files], forks


def cut_at_fork(run, fork):
    """The ancestor counts only as far as the new timeline has it."""
    while run.files and not fork.contains(run.files[-1].gtids):
        if fork.contains(run.files[-1].gtids_before):
            run.files[-1].limit = fork
            break
        run.files.pop()
    run.gtids = run.gtids.intersect(fork)


def transactions(path):
    """(offset, GTID's key, its number, commit time in µs) of each transaction of a binlog file."""
    with open(path, 'rb') as file:
        at = 4
        while True:
            file.seek(at)
            header = file.read(19)
            if len(header) < 19:
                return
            kind, size = header[4], struct.unpack_from('<I', header, 9)[0]
            if kind in (33, 42):
                yield (at, *(gtid_event if kind == 33 else tagged_gtid_event)(file.read(size - 19)))
            at += size


def gtid_event(body):
    digits = body[1:17].hex()
    key = '-'.join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    number = int.from_bytes(body[17:25], 'little')
    return key, number, int.from_bytes(body[42:49], 'little') & (2 ** 55 - 1)


def tagged_gtid_event(body):
    """One message of libs/mysql/serialization: a version, two lengths, then fields by number."""
    at = 0

    def varlen():
        nonlocal at
        first = body[at]
        further = 0
        while further < 8 and first >> further & 1:
            further += 1
        value = int.from_bytes(body[at:at + 1 + further], 'little') >> (further + 1)
        at += 1 + further
        return value

    _, size, _ = varlen(), varlen(), varlen()
    digits, tag, number, micros = '', '', 0, 0
    while at < size:
        field = varlen()
        if field == 1:
            digits = bytes(varlen() for _ in range(16)).hex()
        elif field == 3:
            length = varlen()
            tag, at = body[at:at + length].decode(), at + length
        elif field > 6:
            break
        else:
            value = varlen()
            number = value >> 1 if field == 2 else number
            micros = value if field == 6 else micros
    key = '-'.join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return (f'{key}:{tag}' if tag else key), number, micros


# ---------------------------------------------------------------------------------------------------- snapshots


def read_snapshots(archive, source):
    """What each finished snapshot of the source says of itself, oldest first."""
    found = []
    for snapshot in archive.names('snapshots'):
        if 'COMPLETE' not in archive.names(f'snapshots/{snapshot}'):
            continue
        try:
            mark = archive.content(f'snapshots/{snapshot}/COMPLETE', 'snapshot')
            if mark[:6] != b'QZSC\x01\x00' or hashlib.sha256(mark[:-32]).digest() != mark[-32:]:
                raise Damage(f'snapshots/{snapshot}/COMPLETE is damaged.')
            about = json.loads(mark[52:-32])
            if about['id'] == snapshot and about['source'] == source:
                found.append({**about, 'sha256': mark[16:48]})
        except Damage as damage:
            note(f'WARNING: {damage}')
    return sorted(found, key=lambda one: one['finishedMicros'])


def write_snapshot(archive, snapshot, target):
    """Every file of it below `target`, chunk by chunk, each checked by its hash. Returns what the manifest says."""
    name = f'snapshots/{snapshot["id"]}/manifest'
    data = archive.content(name, 'snapshot')
    if data[:6] != b'QZMF\x01\x00' or hashlib.sha256(data).digest() != snapshot['sha256']:
        raise Damage(f'{name} is damaged, or not the one that its COMPLETE names.')
    meta_bytes, meta_plain_bytes, packs, _ = struct.unpack_from('<4I', data, 8)
    meta = json.loads(unzstd(data[24:24 + meta_bytes], meta_plain_bytes))
    at = 24 + meta_bytes
    ids = [data[at + 32 * index:at + 32 * (index + 1)].hex() for index in range(packs)]
    at += 32 * packs
    pack = functools.lru_cache(maxsize=PACKS_IN_MEMORY)(lambda one: archive.content(f'packs/{one[:2]}/{one}', 'pack'))
    for path, _ in meta['directories']:
        os.makedirs(safe(target, path), mode=0o750, exist_ok=True)
    for path, size, mode in meta['files']:
        os.makedirs(os.path.dirname(safe(target, path)), mode=0o750, exist_ok=True)
        with open(safe(target, path), 'xb') as file:
            for position in range(0, size, CHUNK_BYTES):
                digest, number, offset, stored_bytes, plain_bytes = struct.unpack_from('<32s4I', data, at)
                at += 48
                if not any(digest):
                    continue
                stored = pack(ids[number])[offset:offset + stored_bytes]
                plain = stored if stored_bytes == plain_bytes else unzstd(stored, plain_bytes)
                if hmac.new(archive.chunk_key, plain, hashlib.sha256).digest() != digest:
                    raise Damage(f'Pack {ids[number]} is damaged at byte {offset}; {path} needs it.')
                file.seek(position)
                file.write(plain)
            file.truncate(size)
        os.chmod(safe(target, path), mode & 0o777)
    return meta


def safe(target, path):
    parts = path.split('/')
    if any(part in ('', '.', '..') or '\0' in part or '\\' in part for part in parts):
        raise Trouble(f'The snapshot names {path!r}, which may not be written: the archive was tampered with.')
    return os.path.join(target, *parts)


# ---------------------------------------------------------------------------------------------------- the plan


def choose(runs, forks, snapshots, micros, wanted):
    """The newest snapshot before the instant that leads to it, and the run behind it."""
    fitting = [run for run in runs if run.files[0].segments[0].first_commit <= micros] or runs[:1]
    if not fitting:
        raise Trouble('The archive holds no history that can be replayed.')
    run = fitting[-1]
    if run.gap and micros > run.through:
        raise Trouble(f'That instant lies behind a gap ({run.gap}): choose one up to {instant(run.through)}.')
    if run.through < micros < LATEST:
        note(f'WARNING: what was committed after {instant(run.through)} is not in this archive.')
    for one in reversed(snapshots):
        before, after = GtidSet.parse(one['gtidsBefore'] or ''), GtidSet.parse(one['gtidsAfter'] or '')
        is_ancestor = all(fork.contains(after) for generation, fork in forks.items() if generation > one['generation'])
        leads = run.gtids.contains(after) and after.contains(run.gtids_before)
        if one['finishedMicros'] <= micros and is_ancestor and leads and wanted in (None, one['id']):
            return one, before, run
    raise Trouble('No finished snapshot leads to that instant: choose a later one, or another --snapshot.')


def write_binlog(archive, run, before, micros, target):
    """The files from the snapshot on, cut behind the last transaction of the instant. Returns them, and the GTIDs there."""
    written, reached = [], None
    for file in run.files:
        reached = reached or file.gtids_before
        if before.contains(file.gtids):
            reached = file.gtids
            continue
        folder = os.path.join(target, str(file.generation))
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, os.path.basename(file.name))
        with open(path, 'xb') as output:
            output.write(b'\xfebin')
            for segment in file.segments:
                output.write(segment.body(archive))
            output.truncate(file.end)
        note(f'wrote {path}')
        written.append((file.generation, os.path.relpath(path, target)))
        is_late = any(segment.last_commit > micros for segment in file.segments)
        if not is_late and file.limit is None:
            reached = file.gtids
            continue
        kept = reached.union(file.gtids_before)
        for offset, key, number, committed in transactions(path):
            beyond = file.limit is not None and not file.limit.contains(GtidSet.parse(f'{key}:{number}'))
            if committed > micros or beyond:
                os.truncate(path, offset)
                break
            kept.add(key, number)
        reached = kept
        if is_late:
            break
    return written, reached


def write_replay(path, written, before, reached):
    lines = ['#!/bin/sh', '# sh replay.sh OPTIONS OF mysql: replays the binlog from the snapshot on.', 'set -e',
             'cd "$(dirname "$0")/binlog"']
    exclude = f'--exclude-gtids={shlex.quote(str(before))} ' if before.intervals else ''
    for generation in sorted({generation for generation, _ in written}):
        names = ' '.join(shlex.quote(name) for number, name in written if number == generation)
        lines.append(f'mysqlbinlog {exclude}{names} | mysql --binary-mode --max-allowed-packet=1G "$@" > /dev/null')
    lines.append('# A pipe tells nothing of what broke before it: this does.')
    lines.append(f'missing=$(mysql "$@" -N -e "SELECT GTID_SUBTRACT(\'{reached}\', @@GLOBAL.gtid_executed)")')
    lines.append('[ -z "$missing" ] && echo "All is replayed." || { echo "NOT REPLAYED: $missing"; exit 1; }')
    with open(path, 'w') as file:
        file.write('\n'.join(lines) + '\n')


LAYOUT = ('innodb_page_size', 'innodb_data_file_path', 'lower_case_table_names', 'innodb_ft_min_token_size',
          'innodb_ft_max_token_size', 'partial_revokes')


def write_options(into, settings):
    """What the files depend on; at first a server that only its socket reaches, and in which nothing runs by itself."""
    options = {'datadir': f'{into}/data', 'socket': f'{into}/mysqld.sock', 'pid-file': f'{into}/mysqld.pid',
               'gtid-mode': 'ON', 'enforce-gtid-consistency': 'ON', 'max-allowed-packet': '1G',
               'server-id': secrets.randbelow(2 ** 31 - 1000) + 1000}
    for name in LAYOUT:
        value = settings.get(name, '')
        if value and not (name == 'innodb_data_file_path' and (value.startswith('/') or ';/' in value)):
            options[name] = value
    lines = ['[mysqld]', *(f'{name} = "{value}"' for name, value in options.items()),
             '# Until it is replayed and looked at; then take these away.',
             'skip-networking = ON', 'mysqlx = OFF', 'event-scheduler = OFF', 'disable-log-bin = ON',
             'secure-file-priv = NULL',
             # A dump of a server before 8.4 may hold foreign keys that a later one would refuse.
             'loose-restrict-fk-on-non-standard-key = OFF']
    with open(os.path.join(into, 'my.cnf'), 'w') as file:
        file.write('\n'.join(lines) + '\n')


def instant(micros):
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros)).isoformat(timespec='microseconds') + 'Z'


def parse_instant(text):
    if text == 'latest':
        return LATEST
    try:
        when = datetime.datetime.fromisoformat(re.sub('Z$', '+00:00', text))
    except ValueError:
        raise Trouble('--to is `latest`, or an instant such as 2026-11-23T10:15:00.123456Z.')
    if when.tzinfo is None:
        raise Trouble('--to names no time zone: end it in Z for UTC.')
    return (when - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def recover(archive, source, arguments):
    micros = parse_instant(arguments.to)
    snapshots = read_snapshots(archive, source)
    runs, forks = read_runs(archive, source)
    for one in snapshots:
        print(f'snapshot {one["id"]} ({one["engine"]}, MySQL {one["serverVersion"]}), finished {instant(one["finishedMicros"])}')
    for run in runs:
        names = f'{run.files[0].name} to {run.files[-1].name}'
        print(f'binlog {names}, everything up to {instant(run.through)}{" and then a gap" if run.gap else ""}')
    if arguments.into is None:
        return
    into = os.path.abspath(arguments.into)
    os.makedirs(into, exist_ok=True)
    if os.listdir(into):
        raise Trouble(f'{into} is not empty.')
    snapshot, before, run = choose(runs, forks, snapshots, micros, arguments.snapshot)
    is_clone = snapshot['engine'] == 'clone'
    target = os.path.join(into, 'data' if is_clone else 'dump')
    note(f'writing snapshot {snapshot["id"]} to {target}')
    os.mkdir(target, 0o750)
    meta = write_snapshot(archive, snapshot, target)
    os.mkdir(os.path.join(into, 'binlog'))
    written, reached = write_binlog(archive, run, before, micros, os.path.join(into, 'binlog'))
    write_replay(os.path.join(into, 'replay.sh'), written, before, reached)
    write_options(into, meta['settings'])
    server, client = f'mysqld --defaults-file={into}/my.cnf --user=mysql', f'mysql --socket={into}/mysqld.sock --user=root'
    print(f'\nWith a mysqld of {snapshot["serverVersion"]}, or a later one of its series:\n\n  chown -R mysql: {into}')
    if is_clone:
        print(f'  {server} &')
    else:
        loads = 'dump.sql' if 'dump.sql' in os.listdir(target) else 'schema.sql data/*.sql after.sql'
        print(f'  {server} --initialize-insecure\n  {server} &')
        print(f'  (cd {target} && cat {loads}) | {client} --max-allowed-packet=1G --default-character-set=utf8mb4')
        print(f'  {client} -e SHUTDOWN; wait\n  {server} --loose-upgrade=FORCE &')
    print(f'  sh {into}/replay.sh --socket={into}/mysqld.sock --user=root --password\n')
    print(f'The server then has executed {reached or "nothing"}: {instant(min(micros, run.through))}.')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('archive', help='its folder; a bucket is copied down first')
    parser.add_argument('--key', action='append', default=[], help='key file of an encrypted archive; more than once for several')
    parser.add_argument('--source', help='whose history, where there are several')
    parser.add_argument('--to', default='latest', help='latest, or an instant such as 2026-11-23T10:15:00.123456Z')
    parser.add_argument('--snapshot', help='begin with this one')
    parser.add_argument('--into', help='new folder; without it only what there is is told')
    arguments = parser.parse_args()
    os.umask(0o027)
    try:
        archive = Archive(arguments.archive, arguments.key)
        sources = [name for name in archive.names('sources') if '=' not in name]
        if arguments.source is None and len(sources) != 1:
            raise Trouble(f'Name a --source: {", ".join(sources) or "there is none"}.')
        recover(archive, arguments.source or sources[0], arguments)
    except Trouble as trouble:
        sys.exit(f'recover: {trouble}')


if __name__ == '__main__':
    main()
