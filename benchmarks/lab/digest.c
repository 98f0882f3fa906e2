/* Prints the digest of each file that it is given, and the name: FNV-1a over words of 8 bytes, which
   changes if any one word does. To check 0.8 GB takes an emulated guest 6 s with MD5, and 1 s so. */

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WORD = 8 };
static const uint64_t PRIME = 0x100000001b3u;

int main(int count, char **paths) {
    for (int at = 1; at < count; at++) {
        int file = open(paths[at], O_RDONLY);
        struct stat about;
        if (file < 0 || fstat(file, &about) != 0) {
            perror(paths[at]);
            return 1;
        }
        uint64_t digest = 0xcbf29ce484222325u;
        size_t size = (size_t)about.st_size;
        char *bytes = size ? mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0) : NULL;
        if (bytes == MAP_FAILED) {
            perror(paths[at]);
            return 1;
        }
        size_t place = 0;
        for (; place + WORD <= size; place += WORD) {
            uint64_t word;
            memcpy(&word, bytes + place, WORD);
            digest = (digest ^ word) * PRIME;
        }
        for (; place < size; place++)
            digest = (digest ^ (unsigned char)bytes[place]) * PRIME;
        printf("%016" PRIx64 "  %s\n", digest, paths[at]);
        if (size)
            munmap(bytes, size);
        close(file);
    }
    return fflush(stdout) != 0;
}
