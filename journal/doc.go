// Package journal is a durable record on disk of what a process must not forget when
// it dies: what it has not delivered yet, and what was open. It also tells the next
// life of the process how the former one ended.
//
// [Journal.Append] adds a record, [Journal.Release] says that it is not needed any
// more, [Open] returns those that were never released. A record that was given to
// the journal may come back after it was released (see below), so whoever delivers
// records says which one each is, and the receiver takes the second for the first.
// A nil *Journal is a journal in memory only: every method succeeds and does nothing.
//
// It is not a database (nothing is looked up), not a log for people, and not for
// data that matters more than the last second before a power loss. It does not know
// what is in a record. A directory holds one journal and belongs to one process.
//
// # What survives
//
//   - A crash or kill -9 of the process: everything. A record is in the kernel's
//     hands when Append returns. (The kill may tear a write that is under way, where
//     it crosses a page. Nobody was told that it was done; it is a torn tail.)
//   - A crash or power loss of the machine: all but the last writes. A sync begins at
//     most Options.SyncInterval after the first write that it is for. What may be
//     missing is told as [Recovered].Gap: from the first write that, as far as the file
//     tells, was not synced, to the next boot. A Release may be missing too; then its record comes back.
//   - A full disk, or one that fails: the journal goes on in memory and
//     [Journal.Degraded] says why. It tries again, at first after one SyncInterval,
//     then less and less often, and when it succeeds all is on the disk. A process
//     that dies before loses what it held in memory only; a mark in the file, written
//     in place since that needs no space, makes it a Gap for the next life. (When
//     even the mark could not be written, there is no Gap to see.)
//   - Damage inside the file: what is not damaged is found, the rest is counted and
//     is a Gap. A damaged Release brings its record back.
//
// # Files
//
//	lock           held with flock while the journal is open
//	journal        the records
//	journal.new    a rewrite under way; means nothing after a crash
//	journal.damaged  the last file whose head could not be read, for people
//
// A file is a head of 128 bytes and then frames. Numbers are little-endian, times are
// Unix nanoseconds of the wall clock, checks are CRC-32C that begin at the file's salt
// (that of the head begins at 0).
//
//	head   0 "FLJOURN\n"   8 version (uint32)   12 check of bytes 0 to 80, these four as 0
//	       16 salt (uint32)   24 next sequence number   32 when it was written
//	       40 boot id, 40 bytes of text
//	       80 mark: in memory only since, 88 last sign then, 96 check of the two; 0: none
//	frame  0 check of bytes 4 to 40   4 check of the data   8 length of the data (uint32)
//	       12 kind (uint8)   16 sequence number   24 when it was written
//	       32 a time: what was written before it is on the disk
//	       40 data
//
// The kinds are 1 record, 2 release (the data are sequence numbers of 8 bytes), 3 sign
// of life, 4 closed. Another kind is only a sign of life. Another version is refused.
//
// The reader takes a frame where both checks hold, and goes on behind it. Where none
// begins, it tries the next byte. Nobody can forge a frame inside a record's data, for
// that takes the salt, which is random and stays in the file. What no frame
// covers is a torn tail if no frame follows, and damage if one does. The sequence
// numbers of records rise; one that does not is damage.
//
// # Rewriting
//
// Nothing is ever repaired in place. A new file is written and synced, gets in one step
// under the lock what was written meanwhile, and is renamed over the old one; then the
// directory is synced. Until the rename the old file takes every write as before, so
// that a crash at any moment finds one file with everything in it. This happens
//
//   - in Open: every life begins with a file of its own;
//   - when more than half of the file, and more than 256 KiB, is not needed any more;
//   - when a write or a sync failed: after a failed fsync nobody knows what of the
//     file is on the disk, and asking again would not tell.
//
// One goroutine syncs and rewrites. Without writes it waits and no timer runs. It never
// holds the lock while it waits for the disk, except for that short step, so that Append
// costs its one write.
//
// Open looks into the file of the former life once. What it returns of it, apart from
// the records, is gone when it returns: append what must outlive the next crash.
package journal
