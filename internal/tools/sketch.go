package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"image"
	"image/png"
	"math"
	"slices"
	"strings"
	"unicode"
)

// The size of a sketch in pixels.
const (
	SketchWidth  = 768
	SketchHeight = 512
)

// SketchAbout describes the provider in the tool's description.
const SketchAbout = "The image is an abstract sketch composed offline from the words of the prompt by a built-in renderer; no AI model is involved."

// Sketch is a provider that needs no network: it composes an abstract
// landscape from the prompt. It does not understand the prompt. Words such as
// "ocean" or "night" choose a palette, and a hash of the text places the rest,
// so the same prompt and steps give the same picture. Each step adds a layer.
func Sketch(ctx context.Context, req ImageRequest, progress func(done, total float64, message string)) (Image, error) {
	rng := newDice(req.Prompt)
	c := &canvas{pix: make([]rgb, SketchWidth*SketchHeight)}
	p := paletteFor(req.Prompt, rng)

	total := float64(req.Steps + 1) // the layers and the encoding
	progress(0, total, "Mixing the palette "+p.name)
	c.sky(p)
	c.stars(p, rng)
	c.orb(p, rng)
	for layer := range req.Steps {
		if err := ctx.Err(); err != nil {
			return Image{}, err
		}
		depth := float64(layer) / float64(req.Steps-1)
		c.ribbon(p, rng)
		c.ring(p, rng)
		c.ridge(p, rng, depth)
		progress(float64(layer+1), total, fmt.Sprintf("Painted layer %d of %d", layer+1, req.Steps))
	}
	c.vignette()

	var out bytes.Buffer
	if err := png.Encode(&out, c.image()); err != nil {
		return Image{}, fmt.Errorf("encode the sketch: %w", err)
	}
	progress(total, total, "Encoded the picture")
	return Image{
		Data:     out.Bytes(),
		MIMEType: "image/png",
		Caption:  fmt.Sprintf("An offline sketch in the palette %q with %d layers, composed from the prompt by the built-in renderer (not an AI image).", p.name, req.Steps),
	}, nil
}

// rgb is a colour with components from 0 to 1.
type rgb struct{ r, g, b float64 }

func hex(v uint32) rgb {
	return rgb{float64(v>>16&0xff) / 255, float64(v>>8&0xff) / 255, float64(v&0xff) / 255}
}

// mix is a at t = 0 and b at t = 1.
func mix(a, b rgb, t float64) rgb {
	return rgb{a.r + (b.r-a.r)*t, a.g + (b.g-a.g)*t, a.b + (b.b-a.b)*t}
}

func clamp(v float64) float64 { return max(0, min(1, v)) }

// palette is the colours of one picture.
type palette struct {
	name                 string
	words                []string // that choose it
	zenith, sky, horizon rgb      // the sky from top to bottom
	light                rgb      // sun or moon
	far, near            rgb      // the ridges
	accent               rgb      // ribbons and rings
	night                bool     // stars
}

var palettes = []palette{
	{name: "dusk", words: []string{"sunset", "dusk", "evening", "desert", "warm", "autumn", "fall", "canyon"}, zenith: hex(0x2b1b4d), sky: hex(0xb5446e), horizon: hex(0xffb26b), light: hex(0xfff1c9), far: hex(0xc9596a), near: hex(0x1f1233), accent: hex(0xffd9a0)},
	{name: "ocean", words: []string{"ocean", "sea", "water", "wave", "waves", "beach", "river", "lake", "fish", "blue", "rain"}, zenith: hex(0x0b3a63), sky: hex(0x2f8fb3), horizon: hex(0xc8f0e4), light: hex(0xfffbe6), far: hex(0x5fb7bf), near: hex(0x06233d), accent: hex(0xe9fff7)},
	{name: "forest", words: []string{"forest", "tree", "trees", "jungle", "green", "nature", "garden", "leaf", "grass", "spring"}, zenith: hex(0x1d4d4f), sky: hex(0x6fae8c), horizon: hex(0xf2efc2), light: hex(0xfffde0), far: hex(0x7fb08a), near: hex(0x0e2a22), accent: hex(0xe6f4b8)},
	{name: "night", words: []string{"night", "moon", "star", "stars", "space", "galaxy", "dark", "planet", "cosmic", "dream"}, zenith: hex(0x05071c), sky: hex(0x1a2158), horizon: hex(0x5b4b9a), light: hex(0xf3f2ff), far: hex(0x3c3a80), near: hex(0x04040f), accent: hex(0xa9b8ff), night: true},
	{name: "ember", words: []string{"fire", "volcano", "lava", "red", "dragon", "flame", "hell", "heat", "summer"}, zenith: hex(0x1c0710), sky: hex(0x8e1f1b), horizon: hex(0xff8a3c), light: hex(0xffe7a3), far: hex(0xa8322a), near: hex(0x120408), accent: hex(0xffc06a), night: true},
	{name: "glacier", words: []string{"snow", "ice", "winter", "glacier", "mountain", "mountains", "cold", "frost", "white", "arctic"}, zenith: hex(0x3a5a8c), sky: hex(0x93b9dd), horizon: hex(0xf6eef2), light: hex(0xffffff), far: hex(0xb5cbe4), near: hex(0x24395c), accent: hex(0xffffff)},
	{name: "blossom", words: []string{"flower", "flowers", "love", "pink", "heart", "cat", "sweet", "rose", "cherry", "candy"}, zenith: hex(0x5a4a9c), sky: hex(0xe08fc0), horizon: hex(0xffe3d6), light: hex(0xfff6ef), far: hex(0xd98fb8), near: hex(0x3a1f55), accent: hex(0xffd6ea)},
	{name: "neon", words: []string{"city", "neon", "robot", "cyber", "cyberpunk", "computer", "machine", "street", "future", "code"}, zenith: hex(0x0d0221), sky: hex(0x4a0e78), horizon: hex(0xff3c8e), light: hex(0xffe66d), far: hex(0x6a1b9a), near: hex(0x07010f), accent: hex(0x2de2e6), night: true},
}

// paletteFor lets the first known word of the prompt choose, else the dice.
func paletteFor(prompt string, rng *dice) palette {
	fallback := palettes[int(rng.next()*float64(len(palettes)))]
	words := strings.FieldsFunc(strings.ToLower(prompt), func(r rune) bool { return !unicode.IsLetter(r) })
	for _, word := range words {
		for _, p := range palettes {
			if slices.Contains(p.words, word) {
				return p
			}
		}
	}
	return fallback
}

// dice is splitmix64 seeded by the prompt: its sequence is fixed by its
// definition, so a picture stays what it is with every Go release.
type dice struct{ state uint64 }

func newDice(prompt string) *dice {
	sum := sha256.Sum256([]byte(prompt))
	return &dice{binary.LittleEndian.Uint64(sum[:])}
}

// next is a number in [0, 1).
func (d *dice) next() float64 {
	d.state += 0x9e3779b97f4a7c15
	z := d.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

func (d *dice) between(lo, hi float64) float64 { return lo + (hi-lo)*d.next() }

// wave is a sum of sines over x in [0, 1], within about ±1.
func (d *dice) wave(terms int, roughness float64) func(x float64) float64 {
	type sine struct{ amp, freq, phase float64 }
	sines, sum := make([]sine, terms), 0.0
	for i := range sines {
		amp := math.Pow(roughness, float64(i))
		sines[i] = sine{amp, d.between(0.7, 1.5) * math.Pow(2, float64(i)), d.between(0, 2*math.Pi)}
		sum += amp
	}
	return func(x float64) float64 {
		v := 0.0
		for _, s := range sines {
			v += s.amp * math.Sin(2*math.Pi*s.freq*x+s.phase)
		}
		return v / sum
	}
}

// canvas is the picture while it is painted.
type canvas struct{ pix []rgb }

func (c *canvas) blend(x, y int, colour rgb, alpha float64) {
	if x < 0 || y < 0 || x >= SketchWidth || y >= SketchHeight || alpha <= 0 {
		return
	}
	p := &c.pix[y*SketchWidth+x]
	*p = mix(*p, colour, min(alpha, 1))
}

func (c *canvas) sky(p palette) {
	for y := range SketchHeight {
		for x := range SketchWidth {
			// A slight slant keeps the bands from lying dead level.
			t := clamp(float64(y)/(SketchHeight*0.72) + 0.10*(float64(x)/SketchWidth-0.5))
			if t < 0.55 {
				c.pix[y*SketchWidth+x] = mix(p.zenith, p.sky, t/0.55)
			} else {
				c.pix[y*SketchWidth+x] = mix(p.sky, p.horizon, (t-0.55)/0.45)
			}
		}
	}
}

func (c *canvas) stars(p palette, rng *dice) {
	if !p.night {
		return
	}
	for range 140 {
		cx, cy := rng.between(0, SketchWidth), rng.between(0, SketchHeight*0.6)
		c.disc(cx, cy, rng.between(0.4, 1.3), p.light, rng.between(0.3, 0.9)*(1-cy/(SketchHeight*0.65)))
	}
}

// orb is the sun or the moon with its glow.
func (c *canvas) orb(p palette, rng *dice) {
	cx, cy := rng.between(0.18, 0.82)*SketchWidth, rng.between(0.18, 0.42)*SketchHeight
	radius := rng.between(34, 72)
	for y := range SketchHeight {
		for x := range SketchWidth {
			d := math.Hypot(float64(x)-cx, float64(y)-cy) - radius
			// One pixel under the rim as well, so that its edge is not dark.
			if d > -1 {
				c.blend(x, y, p.light, 0.55*math.Exp(-max(d, 0)/(radius*0.9)))
			}
		}
	}
	c.disc(cx, cy, radius, p.light, 1)
}

func (c *canvas) disc(cx, cy, radius float64, colour rgb, alpha float64) {
	for y := int(cy - radius - 1); y <= int(cy+radius+1); y++ {
		for x := int(cx - radius - 1); x <= int(cx+radius+1); x++ {
			d := math.Hypot(float64(x)-cx, float64(y)-cy)
			c.blend(x, y, colour, alpha*clamp(radius-d+0.5))
		}
	}
}

// ring is a thin circle in the sky.
func (c *canvas) ring(p palette, rng *dice) {
	cx, cy := rng.between(0, SketchWidth), rng.between(0, SketchHeight*0.5)
	radius, width, alpha := rng.between(40, 190), rng.between(0.8, 3), rng.between(0.10, 0.28)
	for y := int(cy - radius - 4); y <= int(cy+radius+4); y++ {
		for x := int(cx - radius - 4); x <= int(cx+radius+4); x++ {
			d := math.Abs(math.Hypot(float64(x)-cx, float64(y)-cy) - radius)
			c.blend(x, y, p.accent, alpha*clamp(width/2-d+0.5))
		}
	}
}

// ribbon is a band of light that flows across the sky.
func (c *canvas) ribbon(p palette, rng *dice) {
	centre, thick := rng.wave(3, 0.5), rng.wave(2, 0.6)
	base, swing, alpha := rng.between(0.08, 0.5)*SketchHeight, rng.between(15, 55), rng.between(0.10, 0.24)
	for x := range SketchWidth {
		u := float64(x) / SketchWidth
		mid := base + swing*centre(u)
		half := 10 + 9*thick(u)
		for y := int(mid - half - 1); y <= int(mid+half+1); y++ {
			d := (float64(y) - mid) / half
			c.blend(x, y, p.accent, alpha*clamp(1-d*d))
		}
	}
}

// ridge is one range of hills; depth is 0 for the farthest and 1 for the
// nearest.
func (c *canvas) ridge(p palette, rng *dice, depth float64) {
	outline := rng.wave(4, 0.46)
	base := (0.56 + 0.36*depth) * SketchHeight
	swing := (0.075 + 0.055*rng.next()) * SketchHeight
	body := mix(p.far, p.near, math.Pow(depth, 0.8))
	haze := mix(body, p.horizon, 0.55*(1-depth))
	for x := range SketchWidth {
		top := base + swing*outline(float64(x)/SketchWidth)
		for y := max(0, int(top)-1); y < SketchHeight; y++ {
			below := float64(y) - top
			// Lit along the crest, in haze towards its foot.
			colour := mix(body, p.light, 0.22*math.Exp(-below/7))
			colour = mix(colour, haze, clamp(below/(0.30*SketchHeight)))
			c.blend(x, y, colour, clamp(below+0.5))
		}
	}
}

func (c *canvas) vignette() {
	for y := range SketchHeight {
		for x := range SketchWidth {
			dx, dy := float64(x)/SketchWidth-0.5, float64(y)/SketchHeight-0.5
			c.blend(x, y, rgb{}, 0.45*clamp((dx*dx+dy*dy)*1.6-0.22))
		}
	}
}

func (c *canvas) image() image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, SketchWidth, SketchHeight))
	for i, p := range c.pix {
		img.Pix[4*i] = uint8(clamp(p.r)*255 + 0.5)
		img.Pix[4*i+1] = uint8(clamp(p.g)*255 + 0.5)
		img.Pix[4*i+2] = uint8(clamp(p.b)*255 + 0.5)
		img.Pix[4*i+3] = 255
	}
	return img
}
