#include "io/batch.h"
