/* Says hello. Compiled with `cc -static` it runs in an image that holds nothing else. */
#include <stdio.h>

int main(int argc, char **argv) {
    printf("hello, %s\n", argc > 1 ? argv[1] : "world");
    return 0;
}
