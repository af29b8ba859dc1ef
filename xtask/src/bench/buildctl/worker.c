/* The only program of the images that are built for the benchmark. It needs nothing but the kernel. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_REALTIME, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* Lines that say when they were printed, so many milliseconds apart. */
static void tick(int count, int apart)
{
	for (int number = 0; number < count; number++) {
		printf("tick %d %lld\n", number, now());
		fflush(stdout);
		usleep(apart * 1000);
	}
}

/* So many megabytes of lines of 100 bytes, each with its number. */
static void flood(int megabytes)
{
	char rest[81];
	memset(rest, 'x', 80);
	rest[80] = 0;
	for (long number = 0; number < megabytes * 10000L; number++)
		printf("flood %012ld %s\n", number, rest);
}

int main(int count, char **words)
{
	int first = count > 2 ? atoi(words[2]) : 0;
	if (count > 2 && strcmp(words[1], "sleep") == 0)
		usleep(first * 1000);
	else if (count > 3 && strcmp(words[1], "tick") == 0)
		tick(first, atoi(words[3]));
	else if (count > 2 && strcmp(words[1], "flood") == 0)
		flood(first);
	else if (count > 2 && strcmp(words[1], "write") == 0)
		return fopen(words[2], "w") == NULL;
	else
		return 2;
	return 0;
}
