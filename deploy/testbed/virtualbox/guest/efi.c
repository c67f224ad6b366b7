/* An UEFI application that counts like tiny.S: once a second a sector behind 64, then sector 63, whose bytes 4 to 7 are
 * the number. It counts its starts, too, in a variable of the firmware: `Starts`, four bytes. Prints on COM1 'B' when it
 * begins, a dot for each number, 'E' where the disk and 'V' where the firmware refuses. Built by tests/support/efi_guest.py. */
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
#define API __attribute__((ms_abi))

typedef struct { u32 id; u8 removable, present, logical, read_only, caching; u32 block_size; } Media;
typedef struct Disk Disk;
struct Disk {
  u64 revision; Media *media; void *reset;
  u64 (API *read)(Disk *, u32, u64, u64, void *);
  u64 (API *write)(Disk *, u32, u64, u64, void *);
  u64 (API *flush)(Disk *);
};
typedef u64 (API *GetVariable)(u16 *, u8 *, u32 *, u64 *, void *);
typedef u64 (API *SetVariable)(u16 *, u8 *, u32, u64, void *);
typedef u64 (API *HandleProtocol)(void *, u8 *, void **);
typedef u64 (API *LocateHandle)(u32, u8 *, void *, u64 *, void **);
typedef u64 (API *Stall)(u64);
typedef u64 (API *Watchdog)(u64, u64, u64, void *);
#define SERVICE(table, offset, kind) (*(kind *)((table) + (offset)))

static u8 block_io[16] = {0x21,0x5b,0x4e,0x96, 0x59,0x64, 0xd2,0x11, 0x8e,0x39,0x00,0xa0,0xc9,0x69,0x72,0x3b};
static u8 ours[16] = {0x76,0x6d,0x62,0x61, 0x63,0x6b, 0x75,0x70, 0x8e,0x39,0x00,0x01,0x02,0x03,0x04,0x05};
static u16 starts_name[] = {'S','t','a','r','t','s',0};
static u8 sector[512] __attribute__((aligned(512)));

static void say(char letter) { __asm__ volatile("outb %0,%1" :: "a"(letter), "Nd"((u16)0x3f8)); }

static void count_start(u8 *runtime) {
  u32 starts = 0;
  u64 size = sizeof starts;
  SERVICE(runtime, 72, GetVariable)(starts_name, ours, 0, &size, &starts);
  starts++;
  if (SERVICE(runtime, 88, SetVariable)(starts_name, ours, 7, sizeof starts, &starts)) say('V');
}

static Disk *whole_disk(u8 *boot) {
  void *handles[32];
  u64 size = sizeof handles;
  if (SERVICE(boot, 176, LocateHandle)(2, block_io, 0, &size, handles)) return 0;
  for (u64 i = 0; i < size / sizeof *handles; i++) {
    Disk *found;
    if (SERVICE(boot, 152, HandleProtocol)(handles[i], block_io, (void **)&found)) continue;
    Media *media = found->media;
    if (media->present && !media->logical && !media->read_only && media->block_size == sizeof sector) return found;
  }
  return 0;
}

u64 API efi_main(void *image, u8 *system) {
  u8 *runtime = *(u8 **)(system + 88), *boot = *(u8 **)(system + 96);
  say('B');
  SERVICE(boot, 256, Watchdog)(0, 0, 0, 0);
  Disk *disk = whole_disk(boot);
  if (!disk) { say('E'); return 1; }
  u32 id = disk->media->id, *number = (u32 *)(sector + 4);
  if (disk->read(disk, id, 63, sizeof sector, sector)) say('E');
  if (sector[0] != 'T' || sector[1] != 'C') { sector[0] = 'T'; sector[1] = 'C'; *number = 0; }
  count_start(runtime);
  for (;;) {
    ++*number;
    if (disk->write(disk, id, 64 + *number % 512, sizeof sector, sector)) say('E');
    if (disk->write(disk, id, 63, sizeof sector, sector) || disk->flush(disk)) say('E');
    say('.');
    SERVICE(boot, 248, Stall)(1000000);
  }
}

/* What makes a program of it that firmware loads: the headers of PE32+, with one section from 0x200 on. */
__asm__(
  ".pushsection .header,\"a\"\n"
  ".ascii \"MZ\"\n.org 0x3c\n.long 0x40\n"
  ".ascii \"PE\\0\\0\"\n.word 0x8664, 1\n.long 0, 0, 0\n.word 0xf0, 0x206\n"
  ".word 0x20b, 0\n.long image_end - 0x200, 0, 0, efi_main, 0x200\n.quad 0\n.long 0x20, 0x20\n"
  ".word 0, 0, 0, 0, 0, 0\n.long 0, image_end, 0x200, 0\n.word 10, 0\n.quad 0, 0, 0, 0\n.long 0, 16\n.fill 16, 8, 0\n"
  ".ascii \".text\\0\\0\\0\"\n.long image_end - 0x200, 0x200, image_end - 0x200, 0x200, 0, 0, 0, 0xe0000020\n"
  ".org 0x200\n.popsection\n");
